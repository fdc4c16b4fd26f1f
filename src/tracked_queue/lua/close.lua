-- close: let nothing more into a shard that is empty, or open it again.  Called by transitions.close.
--
-- KEYS[1]  tag
-- ARGV[1]  '1' closes, '0' opens
-- Derived: paused, instances, scheduled, dead, parked, dependents, laned, ended, queues, queue:<q>, suspects:<q>
--
-- Returns 'ok', or {'busy', what} if it holds jobs or has instances: nothing written.  Records of ended jobs don't count.
-- Keeps: while 'closed' is in `paused`, enqueue and register refuse.
-- include keys
-- include writable
if ARGV[1] == '0' then
  begin_writing()
  redis.call('SREM', single('paused'), 'closed')
  return { 'ok' }
end
for _, kind in ipairs({ 'instances', 'scheduled', 'dead', 'parked', 'dependents', 'laned', 'ended' }) do
  if redis.call('EXISTS', single(kind)) == 1 then
    return { 'busy', kind }
  end
end
for _, queue in ipairs(redis.call('SMEMBERS', single('queues'))) do
  if redis.call('EXISTS', named('queue', queue), named('suspects', queue)) > 0 then
    return { 'busy', 'queue ' .. queue }
  end
end
begin_writing()
redis.call('SADD', single('paused'), 'closed')
return { 'ok' }
