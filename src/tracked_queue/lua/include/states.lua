-- FINAL: the states in which a job will not run again by itself.  OPEN: the others.  KEPT_MS: how long an ended record stays
-- when no transition's arguments say it: ends that a fetch or an enqueue finds by itself.
local OPEN = { queued = true, scheduled = true, active = true, parked = true, waiting = true }
local FINAL = { succeeded = true, failed = true, cancelled = true, expired = true, dead = true }
local KEPT_MS = 3600000
