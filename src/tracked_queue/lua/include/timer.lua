-- timer: what comes due later (the next due job, a rate's next start, ends to pass on) has one owner, an instance with a free
-- place.  `timer` holds that instance's `lease` and `at`, the time it waits for; without them nobody owns the timer.  While
-- something is to come due and nobody owns the timer, the marker `wake_timer` is set, for which every idle instance waits.
local timer_called = false
local function call_timer(at)
  timer_called = true
  local holder = redis.call('HMGET', single('timer'), 'lease', 'at')
  if not holder[1] or number_of(holder[2]) > at then
    redis.call('HDEL', single('timer'), 'lease', 'at')
    redis.call('ZADD', single('wake_timer'), 0, 'takeable')
  end
end
