-- sweep: which leases may need recovery.  Called by transitions.sweep.
--
-- KEYS[1]  tag
-- ARGV[1]  ttl_ms  int
-- Derived: instances
--
-- Returns leases (at most 100): revoked ones, those past their deadline, and those whose deadline is so far ahead that
-- the clock must have changed (recover cuts it).  Writes nothing.
-- include keys
-- include now_ms
local now, ttl_ms = now_ms(), tonumber(ARGV[1])
local leases = redis.call('ZRANGEBYSCORE', single('instances'), '-inf', now, 'LIMIT', 0, 90)
for _, lease in ipairs(redis.call('ZREVRANGEBYSCORE', single('instances'), '+inf', now + 2 * ttl_ms, 'LIMIT', 0, 10)) do
  leases[#leases + 1] = lease
end
return leases
