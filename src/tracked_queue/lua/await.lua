-- await: read the outcome of a job, or note on its record that someone waits for it.  Called by transitions.await_end.
--
-- KEYS[1]  tag
-- ARGV[1]  id  text
-- Derived: job:<id>
--
-- Returns a list; its first word:
--   'ended'    then state, result, reason, error, task ('' where there is none), and the size of a result that was left out since
--              Redis was full, or '0'
--   'waiting'  then state; the transition that ends the job will publish on ended:<id>
--   'gone'     no record, or one of a job that was deleted; nothing written
-- include keys
-- include record
-- include writable
-- include states
local job = named('job', ARGV[1])
local seen = read_fields(job, 'state', 'result', 'reason', 'error', 'waiter', 'task', 'left_out', 'deleted')
local state = seen[1]
if not state or seen[8] then
  return { 'gone' }
end
if FINAL[state] then
  return { 'ended', state, seen[2] or '', seen[3] or '', seen[4] or '', seen[6] or '', seen[7] or '0' }
end
if not seen[5] then
  begin_writing()
  redis.call('HSET', job, 'waiter', '1', 'tied', '1')
end
return { 'waiting', state }
