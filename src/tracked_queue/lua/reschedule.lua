-- reschedule: give scheduled jobs another due time, at a person's request.  Called by transitions.reschedule.
--
-- KEYS[1]  tag
-- ARGV[1]  by    text  who asks for it
-- ARGV[2]  due   int   ms since the epoch; '+<ms>' counts from now
-- ARGV[3..] id   text  at most 70
-- Derived: job:<id>, scheduled, timer, wake_timer
--
-- Returns one word per job:
--   'ok'             due at that time, whether it waited for its first run, for a retry or because of a snooze
--   'not_scheduled'  it is in another state; nothing written
--   'gone'           no record; nothing written
-- include keys
-- include number
-- include now_ms
-- include writable
-- include record
-- include timer
-- include history
local by, now = ARGV[1], now_ms()
-- From when a delay counts, or '0' for a time that the caller named: see tend.lua.
local is_delay = string.sub(ARGV[2], 1, 1) == '+'
local due = is_delay and now + number_of(string.sub(ARGV[2], 2)) or number_of(ARGV[2])
local words, records = {}, {}
for at = 3, #ARGV do
  local id = ARGV[at]
  local found = read_fields(named('job', id), 'state', 'events')
  if not found[1] then
    words[#words + 1] = 'gone'
  elseif found[1] ~= 'scheduled' then
    words[#words + 1] = 'not_scheduled'
  else
    words[#words + 1] = 'ok'
    records[#records + 1] = { id, named('job', id), found[2] }
  end
end
begin_writing()
for _, record in ipairs(records) do
  redis.call('HSET', record[2], 'due_ms', digits(due), 'set_ms', is_delay and digits(now) or '0')
  redis.call('HSET', record[2], event_of(record[3], now, 'rescheduled', '', '', by))
  redis.call('ZADD', single('scheduled'), due, record[1])
end
if #records > 0 then
  if is_delay and number_of(redis.call('HGET', single('timer'), 'counted')) < now then
    redis.call('HSET', single('timer'), 'counted', digits(now))
  end
  call_timer(due)
end
return words
