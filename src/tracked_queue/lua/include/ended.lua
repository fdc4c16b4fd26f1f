-- end_job: writes that every end of a job shares: its state and time, its expiry, the word to those who wait for it.
-- job: the record's key.  waiter: its field of that name.  keep_ms: ms for which the record stays, nil for a dead job,
-- which stays until a person or the trim removes it.  The rest: further fields and values.
-- A waiter gets the state on the job's own channel: sharded where the server has that (7.0), plain on 6.2. A user
-- without the right to publish must not stop a transition halfway; its waiters then find the end by asking.
local PUBLISH = (redis.REDIS_VERSION_NUM and redis.REDIS_VERSION_NUM >= 0x00070000) and 'SPUBLISH' or 'PUBLISH'
local function tell_waiters(id, waiter, state)
  if waiter then
    redis.pcall(PUBLISH, named('ended', id), state)
  end
end
local function end_job(id, job, waiter, state, now, keep_ms, ...)
  redis.call('HSET', job, 'state', state, 'finished_ms', now, ...)
  if keep_ms then
    redis.call('PEXPIRE', job, keep_ms)
  else
    redis.call('ZADD', single('dead'), now, id)
  end
  tell_waiters(id, waiter, state)
end
