-- protocol: agree on the protocol in which a shard is written, and raise it once nobody works here who can't read the new one.
-- Called by transitions.protocol.
--
-- KEYS[1]  tag
-- ARGV[1]  oldest  int  protocol that the caller reads
-- ARGV[2]  newest  int  that it reads
-- ARGV[3]  writes  int  what it writes
-- ARGV[4]  'look', or 'raise': make the number `writes` if it is less
-- Derived: protocol, instances, instance:<lease>
--
-- Returns {word, number, lease, version}: the shard's number, 0 for none yet, and
--   'ok'      the caller can work with it
--   'above'   it is more than `newest`
--   'below'   it is less than `oldest`
--   'behind'  the lease of an instance that doesn't read `writes` and may live, and the version of its program
-- Unless it is 'ok' and a 'raise', nothing is written.
-- Keeps: an instance that is late by more than its TTL, or whose deadline is so far ahead that the clock must have changed, does
-- not count.  If it doesn't read the new number it is revoked: it could come back otherwise (register refuses it).
-- include keys
-- include number
-- include now_ms
-- include writable
-- include spoken
local oldest, newest, writes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local number = read_protocol()
if number and number > newest then
  return { 'above', digits(number) }
elseif number and number < oldest then
  return { 'below', digits(number) }
elseif number and number >= writes then
  return { 'ok', digits(number) }
end
local now, late = now_ms(), {}
local instances = redis.call('ZRANGE', single('instances'), 0, -1, 'WITHSCORES')
for at = 1, #instances, 2 do
  local lease, deadline = instances[at], tonumber(instances[at + 1])
  local about = deadline ~= 0 and redis.pcall('HMGET', named('instance', lease), 'protocol', 'version', 'ttl_ms')
  if about and number_of(about[1], 1) < writes then
    local ttl_ms = number_of(about[3])
    if deadline + ttl_ms > now and deadline <= now + 2 * ttl_ms then
      return { 'behind', digits(number or 0), lease, about[2] or '' }
    end
    late[#late + 1] = lease
  end
end
if ARGV[4] == 'look' then
  return { 'ok', digits(number or 0) }
end
begin_writing()
for _, lease in ipairs(late) do
  redis.call('ZADD', single('instances'), 0, lease)
end
redis.call('SET', single('protocol'), digits(writes))
return { 'ok', digits(writes) }
