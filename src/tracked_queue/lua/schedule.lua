-- schedule: report which schedules an instance runs, and learn from when their ticks count.  Called by transitions.schedule.
--
-- KEYS[1]  tag
-- then 4 values per schedule, at most 250: name, task, queue, rule (as people wrote it)
-- Derived: schedules, schedule:<name>
--
-- Returns now in ms, and per schedule the moment in ms from which its ticks count: its last tick; or, for one that is new or
-- whose rule has changed since, when that rule was first reported.
-- Schedules that no instance has run for 90 days are forgotten, a few a call.
-- Safe to run twice.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include ahead
local FORGET_MS, FORGET = 7776000000, 10
local now = now_ms()
local old = redis.call('ZRANGEBYSCORE', single('schedules'), '-inf', now - FORGET_MS, 'LIMIT', 0, FORGET)
begin_writing()
for _, name in ipairs(old) do
  redis.call('ZREM', single('schedules'), name)
  redis.call('DEL', named('schedule', name))
end
local reply = { digits(now) }
for at = 1, #ARGV, 4 do
  local name = ARGV[at]
  local key = named('schedule', name)
  local known = redis.call('HMGET', key, 'last_ms', 'rule', 'since_ms')
  local since = number_of(known[3])
  if known[2] and known[2] ~= ARGV[at + 3] then
    since = now
    redis.call('HSET', key, 'since_ms', digits(now))
  end
  redis.call('HSETNX', key, 'last_ms', digits(now))
  redis.call('HSET', key, 'task', ARGV[at + 1], 'queue', ARGV[at + 2], 'rule', ARGV[at + 3])
  redis.call('ZADD', single('schedules'), now, name)
  local from = math.max(known[1] and number_of(known[1]) or now, since)
  -- A moment in the future was written by a clock that was ahead.
  reply[#reply + 1] = digits(from > now + AHEAD_MS and now or from)
end
return reply
