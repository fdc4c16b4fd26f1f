-- instances: read who the instances are, and how many jobs each owns.  Called by transitions.instances.
--
-- KEYS[1]  tag
-- ARGV[1]  first  int   from which place on, by their deadlines
-- ARGV[2]  n      int   at most 250
-- ARGV[3..] name  text  of a field of instance:<lease>
-- Derived: instances, instance:<lease>, processing:<lease>
--
-- Returns per instance: lease, deadline, how many jobs it owns, and its fields as a list.
-- include keys
local first, n = tonumber(ARGV[1]), tonumber(ARGV[2])
local flat = redis.call('ZRANGE', single('instances'), first, first + n - 1, 'WITHSCORES')
local reply = {}
for at = 1, #flat, 2 do
  local lease = flat[at]
  local size = #reply
  reply[size + 1], reply[size + 2] = lease, flat[at + 1]
  reply[size + 3] = redis.call('SCARD', named('processing', lease))
  reply[size + 4] = redis.call('HMGET', named('instance', lease), unpack(ARGV, 3))
end
return reply
