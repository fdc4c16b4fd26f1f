-- heartbeat: extend a lease, and tell its instance what it should know.  Called by transitions.heartbeat.
--
-- KEYS[1]  tag
-- ARGV[1]  lease        text
-- ARGV[2]  ttl_ms       int
-- ARGV[3]  interval_ms  int  of idle beats
-- Derived: instances, instance:<lease>, cancel:<lease>, parked, ended, suspecting, paused, contact, hold, sweeper, scheduled,
--          opens, timer, wake_timer
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
-- include timer
local SWEEP_MS = 1000
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
return { 'ok', quiet, run_out, cancels, parked, tend, suspecting }
