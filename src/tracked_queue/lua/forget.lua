-- forget: let go of the name of a queue that holds nothing.  Called by transitions.forget.
--
-- KEYS[1]  tag
-- ARGV[1]  queue  text
-- Derived: queues, paused, queue:<q>, suspects:<q>, laned:<q>, wake:<q>
--
-- Returns 'ok', or 'busy' if it holds jobs (nothing written).  A pause of it is undone.
-- include keys
-- include writable
local queue = ARGV[1]
if redis.call('EXISTS', named('queue', queue), named('suspects', queue), named('laned', queue)) > 0 then
  return { 'busy' }
end
begin_writing()
redis.call('SREM', single('queues'), queue)
redis.call('SREM', single('paused'), 'queue:' .. queue)
redis.call('DEL', named('wake', queue))
return { 'ok' }
