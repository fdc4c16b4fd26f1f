-- heartbeat: extend a lease, and tell its instance what it should know.  Called by transitions.heartbeat.
--
-- KEYS[1]  tag
-- ARGV[1]  lease        text
-- ARGV[2]  ttl_ms       int
-- ARGV[3]  interval_ms  int  of idle beats
-- and if it carries something:
-- ARGV[4]  number       int  grows with each portion of counters; a portion that comes again is not counted again
-- ARGV[5]  starts       int  of jobs that waited in the instance for a place and have started, at most 50
-- then 3 values per start: id, delivery, ms since it started
-- then 2 values per counter, at most 100: field ('run <bucket> <task>' or 'wait <bucket> <queue>'), count
-- Derived: instances, instance:<lease>, cancel:<lease>, parked, ended, suspecting, paused, contact, hold, sweeper, scheduled,
--          opens, timer, wake_timer, job:<id>, times:<minute>, times:h<hour>
--
-- Returns {'lost'}: the lease is revoked or gone; nothing written.  Else
--   {'ok', quiet, run_out, cancels, parked, tend, suspecting}
--   quiet    '1' if this instance was asked to fetch nothing, else '0'
--   run_out  '1' if another instance's lease seems to have run out, or is revoked: a sweep is worthwhile.  Only one instance of
--            the fleet gets this per second
--   cancels  ids (at most 250) of active jobs here whose cancellation is asked for; repeated until they settle
--   parked   names (at most 50) of tasks with parked jobs
--   tend     '1' if something has come due and nobody owns the timer (while every place of the fleet is taken, nobody
--            fetches), or if delays have to be counted anew because the clock went back; else '0'
--   suspecting  names (at most 50) of queues with suspects that are not paused
-- A beat after the deadline but before the revocation extends the lease.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include contact
-- include record
-- include timer
-- include ran
local SWEEP_MS = 1000
-- How long counters of waits and runs are kept.
local KEPT_BY_MINUTE_MS, KEPT_BY_HOUR_MS = 7200000, 259200000
-- An instance that owns the timer and is late by more than this is dead, or stands still.
local LATE_MS = 250
local lease, ttl_ms, interval_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if not deadline or deadline == 0 then
  return { 'lost' }
end
local hold, went_back = read_hold(now, ttl_ms, interval_ms)
local quiet = redis.call('HGET', named('instance', lease), 'quiet') or '0'
local number, starts = number_of(ARGV[4]), {}
local is_new = number > 0 and number > number_of(redis.call('HGET', named('instance', lease), 'beat'))
local counters_at = 6 + 3 * number_of(ARGV[5])
for at = 6, counters_at - 1, 3 do
  local job = named('job', ARGV[at])
  local found = read_fields(job, 'state', 'delivery', 'lease')
  if found[1] == 'active' and found[2] == ARGV[at + 1] and found[3] == lease then
    starts[#starts + 1] = { job, ARGV[at + 1] .. ' ' .. digits(start_of_run(found[2], number_of(ARGV[at + 2]), now)) }
  end
end
local cancels = redis.call('SRANDMEMBER', named('cancel', lease), 250)
local parked = redis.call('SRANDMEMBER', single('parked'), 50)
local suspecting = {}
for _, queue in ipairs(redis.call('SRANDMEMBER', single('suspecting'), 50)) do
  if redis.call('SISMEMBER', single('paused'), 'queue:' .. queue) == 0 then
    suspecting[#suspecting + 1] = queue
  end
end
local earliest = redis.call('ZRANGE', single('instances'), 0, 1, 'WITHSCORES')
local latest = redis.call('ZREVRANGE', single('instances'), 0, 0, 'WITHSCORES')
local run_out = '0'
for at = 1, #earliest, 2 do
  local ends = tonumber(earliest[at + 1])
  -- A lease that is just past its deadline is no reason to sweep while no instance may be called dead.
  if earliest[at] ~= lease and ends <= now
    and (ends == 0 or math.max(hold or 0, number_of(redis.call('GET', single('hold')))) <= now) then
    run_out = '1'
  end
end
if latest[1] ~= lease and tonumber(latest[2]) > now + 2 * ttl_ms then
  run_out = '1'
end
local lies_in_time = redis.call('EXISTS', single('scheduled'), single('opens'), single('ended')) > 0
local holder = lies_in_time and redis.call('HMGET', single('timer'), 'lease', 'at', 'rewind', 'counted') or {}
-- Perhaps nobody beat while the clock was ahead; then enqueues from that time show it (`counted`).
went_back = went_back or number_of(holder[4]) > now + ttl_ms
begin_writing()
local tend = '0'
if went_back then
  if holder[4] then
    redis.call('HSET', single('timer'), 'counted', digits(now))
  end
  -- Each limit is looked at again: a rate's next start was computed by a clock that was ahead.
  redis.call('ZUNIONSTORE', single('opens'), 1, single('opens'), 'WEIGHTS', 0)
  redis.call('HDEL', single('timer'), 'lease', 'at')
  holder = {}
  if redis.call('EXISTS', single('scheduled')) == 1 then
    redis.call('HSET', single('timer'), 'rewind', '+inf 0')  -- and each delay, see tend
    tend = '1'
  end
end
if lies_in_time then
  if holder[3] then
    tend = '1'
  end
  if holder[1] and number_of(holder[2]) + LATE_MS < now then
    call_timer(-1)
  elseif not holder[1] and redis.call('ZADD', single('wake_timer'), 0, 'takeable') == 0 then
    -- The marker was set already, so no idle worker waits for it: the instance that beats does what is due.
    local due_at = redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES')[2]
    local opens_at = redis.call('ZRANGE', single('opens'), 0, 0, 'WITHSCORES')[2]
    if redis.call('EXISTS', single('ended')) == 1 or number_of(due_at, now + 1) <= now or number_of(opens_at, now + 1) <= now then
      tend = '1'
    end
  end
end
if run_out == '1' then
  -- One of a fleet sweeps, not all at once.
  local told_ms = number_of(redis.call('GET', single('sweeper')))
  if told_ms <= now and told_ms > now - SWEEP_MS then
    run_out = '0'
  else
    redis.call('SET', single('sweeper'), digits(now), 'PX', 60 * SWEEP_MS)  -- what counts is the time in it
  end
end
note_contact(now, hold)
redis.call('ZADD', single('instances'), now + ttl_ms, lease)
redis.call('HSET', named('instance', lease), 'seen_ms', now)
for _, start in ipairs(starts) do
  redis.call('HSET', start[1], 'started', start[2])
end
if is_new then
  redis.call('HSET', named('instance', lease), 'beat', number)
  local by_minute = named('times', string.format('%.0f', math.floor(now / 60000)))
  local by_hour = named('times', 'h' .. string.format('%.0f', math.floor(now / 3600000)))
  for at = counters_at, #ARGV, 2 do
    redis.call('HINCRBY', by_minute, ARGV[at], ARGV[at + 1])
    redis.call('HINCRBY', by_hour, ARGV[at], ARGV[at + 1])
  end
  redis.call('PEXPIRE', by_minute, KEPT_BY_MINUTE_MS)
  redis.call('PEXPIRE', by_hour, KEPT_BY_HOUR_MS)
end
return { 'ok', quiet, run_out, cancels, parked, tend, suspecting }
