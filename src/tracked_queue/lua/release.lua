-- release: revoke a lease on its holder's or its supervisor's word, so that recovery needs no waiting.
-- Called by transitions.release.
--
-- KEYS[1]  tag
-- ARGV[1]  lease  text
-- ARGV[2]  cause  word  'lost' (its process died) or 'interrupted' (it was ended on purpose): how recovery counts
-- Derived: instances, instance:<lease>, processing:<lease>, cancel:<lease>
--
-- Returns:
--   'dropped'  it owned nothing; the lease and its description are removed
--   'revoked'  it owns jobs; recover moves them
--   'gone'     no such lease; nothing written
-- include keys
-- include writable
local lease, cause = ARGV[1], ARGV[2]
local instances, instance = single('instances'), named('instance', lease)
local deadline = tonumber(redis.call('ZSCORE', instances, lease))
local total = redis.call('LLEN', named('processing', lease))
if not deadline then
  return { 'gone' }
end
begin_writing()
if total == 0 then
  redis.call('ZREM', instances, lease)
  redis.call('DEL', instance, named('cancel', lease))
  return { 'dropped' }
end
if deadline ~= 0 then
  redis.call('ZADD', instances, 0, lease)
  redis.call('HSET', instance, 'cause', cause)
end
return { 'revoked' }
