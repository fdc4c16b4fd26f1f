-- close: let nothing more into a shard that is empty, or open it again.  Called by transitions.close.
--
-- KEYS[1]  tag
-- ARGV[1]  'close', 'look' (only whether it is empty), or 'open'
-- Derived: paused, protocol, instances, scheduled, dead, parked, dependents, laned, ended, queues, queue:<q>, suspecting, schedules,
--          schedule:<name>
--
-- Returns 'ok', or {'busy', what} if it holds jobs, pauses or instances: nothing written.  Records of ended jobs don't count.
-- Keeps: while 'closed' is in `paused`, enqueue and register refuse.  A closed shard forgets its schedules' last ticks: if
-- it is ever opened again, missed ticks are not made up for.
-- include keys
-- include writable
local SCHEDULES = 1000
if ARGV[1] == 'open' then
  begin_writing()
  if redis.call('SREM', single('paused'), 'closed') == 1 then
    redis.call('DEL', single('protocol'))  -- of an earlier time; nothing is in a shard that was closed
  end
  return { 'ok' }
end
for _, kind in ipairs({ 'instances', 'scheduled', 'dead', 'parked', 'dependents', 'laned', 'ended', 'suspecting' }) do
  if redis.call('EXISTS', single(kind)) == 1 then
    return { 'busy', kind }
  end
end
for _, queue in ipairs(redis.call('SMEMBERS', single('queues'))) do
  if redis.call('EXISTS', named('queue', queue)) == 1 then
    return { 'busy', 'queue ' .. queue }
  end
end
if redis.call('SCARD', single('paused')) > redis.call('SISMEMBER', single('paused'), 'closed') then
  return { 'busy', 'paused' }
end
if ARGV[1] == 'look' then
  return { 'ok' }
end
local schedules = redis.call('ZRANGE', single('schedules'), 0, SCHEDULES - 1)
begin_writing()
redis.call('SADD', single('paused'), 'closed')
for _, name in ipairs(schedules) do
  redis.call('DEL', named('schedule', name))
  redis.call('ZREM', single('schedules'), name)
end
return { 'ok' }
