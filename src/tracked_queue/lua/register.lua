-- register: open a lease, the right of one instance to own jobs until a deadline.  Called by transitions.register.
--
-- KEYS[1]  tag
-- ARGV[1]  lease        text  fresh for each start; never used again
-- ARGV[2]  ttl_ms       int
-- ARGV[3]  interval_ms  int   of idle beats
-- ARGV[4]  limits       bytes MessagePack of a map: the limits that the instance's code knows, by name (without a key's value),
--                       and their numbers; '' for none
-- ARGV[5..] field, value pairs of the instance's description
-- Derived: instances, instance:<lease>, contact, hold, limits, paused
--
-- Returns:
--   'ok'    the lease is open (again the same after a resend)
--   'lost'  it was revoked meanwhile; nothing written
--   'closed'  the namespace was given another number of shards (see close.lua); nothing written
-- Keeps: nothing revives a revoked lease.  Of several numbers of a limit, that of the instance which started last counts.
-- include keys
-- include now_ms
-- include writable
-- include contact
local lease, ttl_ms, interval_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if deadline == 0 then
  return { 'lost' }
end
if redis.call('SISMEMBER', single('paused'), 'closed') == 1 then
  return { 'closed' }
end
local hold = read_hold(now, ttl_ms, interval_ms)
begin_writing()
note_contact(now, hold)
redis.call('ZADD', single('instances'), now + ttl_ms, lease)
local fields = { 'ttl_ms', ttl_ms, 'started_ms', now, 'seen_ms', now }
for at = 5, #ARGV do
  fields[#fields + 1] = ARGV[at]
end
redis.call('HSET', named('instance', lease), unpack(fields))
for name, number in pairs(ARGV[4] ~= '' and cmsgpack.unpack(ARGV[4]) or {}) do
  redis.call('HSET', single('limits'), name, number)
end
return { 'ok' }
