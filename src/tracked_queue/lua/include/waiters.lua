-- tell_waiters: publishes a job's state, or the kind of a note, to those who wait for it.  The job has its own channel: a sharded
-- one where the server has those (7.0), a plain one on 6.2.  A Redis user without the right to publish must not stop a transition
-- halfway; waiters then find the end when they ask again.
local PUBLISH = (redis.REDIS_VERSION_NUM and redis.REDIS_VERSION_NUM >= 0x00070000) and 'SPUBLISH' or 'PUBLISH'
local function tell_waiters(id, waiter, state)
  if waiter then
    redis.pcall(PUBLISH, named('ended', id), state)
  end
end
-- tell_followers: for a job whose record is lost or removed: has the jobs that come after it, and those whose results it wanted,
-- notified of that (see tend).
local function tell_followers(id)
  if redis.call('EXISTS', named('followers', id), named('told', id), named('after', id)) > 0 then
    redis.call('RPUSH', single('ended'), id)
  end
end
