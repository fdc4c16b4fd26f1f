-- forget: remove the name of a queue that holds nothing.  Called by transitions.forget.
--
-- KEYS[1]  tag
-- ARGV[1]  queue  text
-- Derived: queues, paused, queue:<q>, suspected:<q>, laned:<q>, wake:<q>, wake_suspects:<q>, ends:<q>
--
-- Returns 'ok', or 'busy' if it holds jobs (nothing written).  If the queue was paused, it no longer is.
-- include keys
-- include writable
local queue = ARGV[1]
if redis.call('EXISTS', named('queue', queue), named('suspected', queue), named('laned', queue)) > 0 then
  return { 'busy' }
end
begin_writing()
redis.call('SREM', single('queues'), queue)
redis.call('SREM', single('paused'), 'queue:' .. queue)
redis.call('DEL', named('wake', queue), named('wake_suspects', queue), named('ends', queue))
return { 'ok' }
