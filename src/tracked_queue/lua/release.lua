-- release: revoke a lease at the request of its holder or its supervisor, so that recovery need not wait.
-- Called by transitions.release.
--
-- KEYS[1]  tag
-- ARGV[1]  lease    text
-- ARGV[2]  cause    word  what recovery counts it as: 'died' (its process died), 'container' (it died together with others that
--                         had jobs of their own), or 'interrupted' (it was ended on purpose, or gives up by itself)
-- ARGV[3]  ago      int   ms since its end was seen; '' if nobody saw it
-- ARGV[4]  beside   int   jobs that its process had under leases of other shards
-- ARGV[5]  proven  '1'; or '0' to note only the cause that applies if the lease runs out
-- Derived: instances, instance:<lease>, processing:<lease>, cancel:<lease>, testing, timer, wake_timer
--
-- Returns:
--   'dropped'  it owned nothing; the lease and its description are removed
--   'revoked'  it owns jobs; recover moves them
--   'noted'    ARGV[5] is '0'; nothing is revoked
--   'gone'     no such lease; nothing written
-- include keys
-- include number
-- include now_ms
-- include writable
-- include timer
local lease, cause, ago, beside = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local instances, instance = single('instances'), named('instance', lease)
local deadline = tonumber(redis.call('ZSCORE', instances, lease))
local total = redis.call('SCARD', named('processing', lease))
if not deadline then
  return { 'gone' }
end
begin_writing()
if ARGV[5] ~= '0' and redis.call('HGET', single('timer'), 'lease') == lease then
  call_timer(-1)
end
if ARGV[5] == '0' then
  if deadline ~= 0 then
    redis.call('HSET', instance, 'if_lost', cause)
  end
  return { 'noted' }
end
if total == 0 then
  redis.call('ZREM', instances, lease)
  redis.call('ZREM', single('testing'), lease)
  redis.call('DEL', instance, named('cancel', lease))
  return { 'dropped' }
end
if deadline ~= 0 then
  redis.call('ZADD', instances, 0, lease)
  redis.call('HSET', instance, 'cause', cause, 'beside', beside)
  if ago then
    redis.call('HSET', instance, 'died_ms', digits(now_ms() - ago))
  end
end
return { 'revoked' }
