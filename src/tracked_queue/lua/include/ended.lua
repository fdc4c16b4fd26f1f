-- end_job: writes that every end of a job shares: its state and time, its expiry, the word to those who wait for it.
-- record: a table with id, job (the record's key) and waiter.  keep_ms: ms for which the record stays, nil for a dead
-- job, which stays until a person or the trim removes it.  The rest: further fields and values.
-- A waiter gets the state on the job's own channel: sharded where the server has that (7.0), plain on 6.2. A user
-- without the right to publish must not stop a transition halfway; its waiters then find the end by asking.
local PUBLISH = (redis.REDIS_VERSION_NUM and redis.REDIS_VERSION_NUM >= 0x00070000) and 'SPUBLISH' or 'PUBLISH'
local function tell_waiters(record, state)
  if record.waiter then
    redis.pcall(PUBLISH, named('ended', record.id), state)
  end
end
local function end_job(record, state, now, keep_ms, ...)
  redis.call('HSET', record.job, 'state', state, 'finished_ms', now, ...)
  if keep_ms then
    redis.call('PEXPIRE', record.job, keep_ms)
  else
    redis.call('ZADD', single('dead'), now, record.id)
  end
  tell_waiters(record, state)
end
