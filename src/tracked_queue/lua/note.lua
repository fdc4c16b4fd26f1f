-- note: store what a running job reports as it goes: progress, a checkpoint, or a log line.  Called by transitions.note.
--
-- KEYS[1]  tag
-- ARGV[1]  lease     text
-- ARGV[2]  id        text
-- ARGV[3]  delivery  int    number given out by fetch; fences a late note
-- ARGV[4]  kind      word   'progress', 'checkpoint' or 'log'
-- ARGV[5]  value     bytes
-- Derived: job:<id>, channels ended:<id>
--
-- Returns 'ok', 'fenced' (another delivery owns the job; nothing written), or 'gone' (no record; nothing written).
-- Refuses: a full Redis (OOM), before the first write.
-- The last 100 log lines are kept.  Those who wait for the job are notified of all progress and of every line.
-- Run twice, it stores the same, except that a log line is then stored twice.
-- include keys
-- include number
-- include now_ms
-- include record
-- include waiters
local LINES = 100
local lease, id, delivery, kind, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = named('job', id)
local found = read_fields(job, 'state', 'lease', 'delivery', 'waiter', 'lines')
if not found[1] then
  return { 'gone' }
end
if found[1] ~= 'active' or found[2] ~= lease or found[3] ~= delivery then
  return { 'fenced' }
end
if kind == 'log' then
  local lines = number_of(found[5])
  redis.call('HSET', job, 'line:' .. lines % LINES, digits(now_ms()) .. ' ' .. value, 'lines', lines + 1)
else
  redis.call('HSET', job, kind, value, 'tied', '1')
end
if kind ~= 'checkpoint' then
  tell_waiters(id, found[4], kind)
end
return { 'ok' }
