-- pause: stop the fetching of a queue's or a task's jobs, or a schedule's ticks, over the whole fleet.
-- Called by transitions.pause.
--
-- KEYS[1]  tag
-- ARGV[1]  what  text  'queue:<name>', 'task:<name>' or 'schedule:<name>'
-- Derived: paused, wake:<queue>, wake_suspects:<queue>
--
-- Returns 'ok', or 'again' if it was paused (nothing written).  Jobs of a paused task are parked when a fetch meets
-- them, so that they don't block the jobs behind them.
-- include keys
-- include writable
local what = ARGV[1]
if redis.call('SISMEMBER', single('paused'), what) == 1 then
  return { 'again' }
end
begin_writing()
redis.call('SADD', single('paused'), what)
if string.sub(what, 1, 6) == 'queue:' then
  redis.call('DEL', named('wake', string.sub(what, 7)), named('wake_suspects', string.sub(what, 7)))
end
return { 'ok' }
