-- register: open a lease, the right of one instance to own jobs until a deadline.  Called by transitions.register.
--
-- KEYS[1]  tag
-- ARGV[1]  lease        text  fresh for each start; never used again
-- ARGV[2]  ttl_ms       int
-- ARGV[3]  interval_ms  int   of idle beats
-- ARGV[4]  limits       bytes MessagePack of a map: the limits that the instance's code knows, by name (without a key's value),
--                       and their numbers; '' for none
-- ARGV[5]  newest       int   protocol that the instance reads
-- ARGV[6]  writes       int   what it writes; the shard's number is at least this afterwards
-- ARGV[7..] field, value pairs of the instance's description
-- Derived: protocol, instances, instance:<lease>, contact, hold, limits, opens, timer, wake_timer, paused, queue:<q>, wake:<q>,
--          suspects:<q> of an earlier version
--
-- Returns:
--   'ok'    the lease is open (again the same after a resend)
--   'lost'  it was revoked meanwhile; nothing written
--   'closed'  the namespace was given another number of shards (see close.lua); nothing written
--   {'above', number}  the shard is written in a newer protocol (see protocol.lua); nothing written
-- Keeps: nothing revives a revoked lease.  If instances know different numbers of a limit, the one that started last
-- decides.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include spoken
-- include contact
-- include paused
-- include wake
-- include timer
-- How many suspects of an earlier version are taken over at a start.
local TAKEN_OVER = 250
local lease, ttl_ms, interval_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if deadline == 0 then
  return { 'lost' }
end
if redis.call('SISMEMBER', single('paused'), 'closed') == 1 then
  return { 'closed' }
end
local protocol = read_protocol() or 0
if protocol > tonumber(ARGV[5]) then
  return { 'above', digits(protocol) }
end
local hold = read_hold(now, ttl_ms, interval_ms)
begin_writing()
if protocol < tonumber(ARGV[6]) then
  -- A server that lost the number, with the rest or in a failover, has what this instance writes.
  redis.call('SET', single('protocol'), ARGV[6])
end
note_contact(now, hold)
redis.call('ZADD', single('instances'), now + ttl_ms, lease)
local fields = { 'ttl_ms', ttl_ms, 'started_ms', now, 'seen_ms', now, 'protocol', ARGV[5] }
for at = 7, #ARGV do
  fields[#fields + 1] = ARGV[at]
end
redis.call('HSET', named('instance', lease), unpack(fields))
for name, number in pairs(ARGV[4] ~= '' and cmsgpack.unpack(ARGV[4]) or {}) do
  local before = number_of(redis.call('HGET', single('limits'), name), false)
  if before ~= number then
    redis.call('HSET', single('limits'), name, number)
    if not before or number > before then
      redis.call('ZADD', single('opens'), 0, '\1' .. name)  -- jobs that wait for it may have room now
      call_timer(now)
    end
  end
end
-- An earlier version kept its suspects in lists; those jobs go back to their queues.
local paused = nil
for at = 7, #ARGV, 2 do
  for queue in string.gmatch(ARGV[at] == 'queues' and ARGV[at + 1] or '', '[^\n]+') do
    local old = redis.pcall('LRANGE', named('suspects', queue), -TAKEN_OVER, -1)
    if #old > 0 and not old.err then
      paused = paused or read_paused()
      redis.call('LTRIM', named('suspects', queue), 0, -#old - 1)
      redis.call('RPUSH', named('queue', queue), unpack(old))
      wake(queue, paused)
    end
  end
end
return { 'ok' }
