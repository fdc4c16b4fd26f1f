-- FINAL: the states in which a job will not run again by itself.  OPEN: the others.  KEPT_MS: how long the record of
-- an ended job stays where no argument says so, as when a fetch or an enqueue is what ends it.
local OPEN = { queued = true, scheduled = true, active = true, parked = true, waiting = true }
local FINAL = { succeeded = true, failed = true, cancelled = true, expired = true, dead = true }
local KEPT_MS = 3600000
