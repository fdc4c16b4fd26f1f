-- sweep: list the leases that may need recovery.  Called by transitions.sweep.
--
-- KEYS[1]  tag
-- ARGV[1]  ttl_ms  int
-- Derived: instances, hold
--
-- Returns leases (at most 100): revoked ones, those past their deadline, and those whose deadline is so far ahead that
-- the clock must have changed (recover cuts it).  During a hold, none that are just past their deadline.  Writes nothing.
-- include keys
-- include number
-- include now_ms
local now, ttl_ms = now_ms(), tonumber(ARGV[1])
local until_ms = number_of(redis.call('GET', single('hold'))) > now and 0 or now
local leases = redis.call('ZRANGEBYSCORE', single('instances'), '-inf', until_ms, 'LIMIT', 0, 90)
for _, lease in ipairs(redis.call('ZREVRANGEBYSCORE', single('instances'), '+inf', now + 2 * ttl_ms, 'LIMIT', 0, 10)) do
  leases[#leases + 1] = lease
end
return leases
