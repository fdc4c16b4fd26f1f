-- protocol: agree on the protocol in which a shard is written, and raise it once nobody works here who can't read the new one.
-- Called by transitions.protocol.
--
-- KEYS[1]  tag
-- ARGV[1]  oldest  int  protocol that the caller reads
-- ARGV[2]  newest  int  that it reads
-- ARGV[3]  writes  int  what it writes
-- Derived: protocol, queues, instances, instance:<lease>
--
-- Returns {word, number, lease, version}: the shard's number, and
--   'ok'      the caller can work with it; it is `writes` now if it was less
--   'above'   it is more than `newest`
--   'below'   it is less than `oldest`
--   'behind'  the lease of a live instance that doesn't read `writes`, and the version of its program
-- Unless it is 'ok', nothing is written.
-- Keeps: a shard that was in use before protocols had numbers is of protocol 1.  Instances past their deadline that don't
-- read the new number are revoked: they could come back otherwise (register refuses them).
-- include keys
-- include number
-- include now_ms
-- include writable
local oldest, newest, writes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found = redis.call('GET', single('protocol'))
local number = number_of(found, 1)
if not found and redis.call('EXISTS', single('queues'), single('instances')) == 0 then
  number = writes
end
if number > newest then
  return { 'above', digits(number) }
elseif number < oldest then
  return { 'below', digits(number) }
elseif found and number >= writes then
  return { 'ok', digits(number) }
end
local now, late = now_ms(), {}
if number < writes then
  local instances = redis.call('ZRANGE', single('instances'), 0, -1, 'WITHSCORES')
  for at = 1, #instances, 2 do
    local lease, deadline = instances[at], tonumber(instances[at + 1])
    local about = deadline ~= 0 and redis.call('HMGET', named('instance', lease), 'protocol', 'version')
    if about and number_of(about[1], 1) < writes then
      if deadline > now then
        return { 'behind', digits(number), lease, about[2] or '' }
      end
      late[#late + 1] = lease
    end
  end
end
begin_writing()
for _, lease in ipairs(late) do
  redis.call('ZADD', single('instances'), 0, lease)
end
redis.call('SET', single('protocol'), digits(math.max(number, writes)))
return { 'ok', digits(math.max(number, writes)) }
