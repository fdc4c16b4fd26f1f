-- unpark: move a task's parked jobs back to their queues, a portion a call.  Called by transitions.unpark.
--
-- KEYS[1]  tag
-- ARGV[1]  task   text
-- ARGV[2]  n      int   of jobs in this portion, at most 70
-- ARGV[3..] queue text  only jobs of these queues move; jobs of every queue if none is given
-- Derived: parked, parked:<task>, job:<id>, queue:<q>, suspected:<q>, suspecting, lane:<lane>, lanes:<q>, laned,
--          laned:<q>, wake:<q>, wake_suspects:<q>, paused, dead, followers:<id>, told:<id>,
--          after:<id>, ended, queues
--
-- Returns a list; its first word:
--   'ok'      then moved, remaining
--   'paused'  the task is paused; nothing written
-- An id without a record becomes a dead job.  A parked job of another queue goes to the list's other end, so that it doesn't
-- stand in the way.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include waiters
-- include garbage
-- include record
-- include states
-- include expiry
-- include lanes
-- include push
local task, n = ARGV[1], tonumber(ARGV[2])
local list, paused = named('parked', task), read_paused()
if paused['task:' .. task] then
  return { 'paused' }
end
local served = {}
for at = 3, #ARGV do
  served[ARGV[at]] = true
end
local ids = redis.call('LRANGE', list, -n, -1)
local total = redis.call('LLEN', list)
local records = {}
for i, id in ipairs(ids) do
  records[i] = read_fields(named('job', id), 'state', 'queue', 'pool', 'lane')
end
begin_writing()
if #ids > 0 then
  redis.call('LTRIM', list, 0, -#ids - 1)
end
local moved, stay = 0, {}
-- Pushed to the right one by one, the oldest (the list's right end, the last of ids) is the next to be fetched.
for i, id in ipairs(ids) do
  local state, queue = records[i][1], queue_of(records[i][2])
  if state == 'cancelled' then
    unlist(named('job', id))
  elseif not state then
    bury_garbage(id, '', now_ms(), 'a parked id without a record')
  elseif state == 'parked' then
    if #ARGV == 2 or served[queue] then
      redis.call('HSET', named('job', id), 'state', 'queued')
      push_job('RPUSH', id, queue, records[i][4], records[i][3], paused)
      moved = moved + 1
    else
      stay[#stay + 1] = id
    end
  end
end
if #stay > 0 then
  redis.call('LPUSH', list, unpack(stay))
end
if redis.call('LLEN', list) == 0 then
  redis.call('SREM', single('parked'), task)
end
return { 'ok', tostring(moved), tostring(total - #ids + #stay) }
