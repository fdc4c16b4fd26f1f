-- trim: remove dead jobs that are too old or too many.  Called by transitions.trim.
--
-- KEYS[1]  tag
-- ARGV[1]  max_age    int  ms
-- ARGV[2]  max_count  int
-- ARGV[3]  n          int  removed by one call at most
-- Derived: dead, job:<id>, followers:<id>, told:<id>, after:<id>, ended, stats:<minute>
--
-- Returns the number of removed jobs; n means: call again.
-- include keys
-- include now_ms
-- include writable
-- include waiters
-- include stats
local max_age, max_count, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local ids = redis.call('ZRANGEBYSCORE', single('dead'), '-inf', now - max_age, 'LIMIT', 0, n)
local excess = redis.call('ZCARD', single('dead')) - max_count
if #ids < n and excess > #ids then
  ids = redis.call('ZRANGE', single('dead'), 0, math.min(n, excess) - 1)
end
if #ids == 0 then
  return 0
end
begin_writing()
for _, id in ipairs(ids) do
  redis.call('DEL', named('job', id))
  tell_followers(id)
end
redis.call('ZREM', single('dead'), unpack(ids))
count(now, 'trimmed', '', #ids)
return #ids
