-- resume: let a paused queue's or task's jobs be fetched, or a schedule tick, again.  Called by transitions.resume.
--
-- KEYS[1]  tag
-- ARGV[1]  what  text  'queue:<name>', 'task:<name>' or 'schedule:<name>'
-- Derived: paused, queue:<q>, suspected:<q>, lanes:<q>, open:<q>, wake:<q>, wake_suspects:<q>
--
-- Returns 'ok', or 'again' if it was not paused (nothing written).  unpark moves a task's parked jobs back.
-- include keys
-- include writable
-- include paused
-- include wake
-- include takeable
local what = ARGV[1]
local paused = read_paused()
if not paused[what] then
  return { 'again' }
end
local queue = string.sub(what, 1, 6) == 'queue:' and string.sub(what, 7) or nil
local waits = queue and is_takeable(queue)
local suspects_wait = queue and redis.call('EXISTS', named('suspected', queue)) == 1
begin_writing()
redis.call('SREM', single('paused'), what)
paused[what] = nil
if waits then
  wake(queue, paused)
end
if suspects_wait then
  wake_suspects(queue, paused)
end
return { 'ok' }
