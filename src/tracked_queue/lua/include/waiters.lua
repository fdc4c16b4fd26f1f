-- tell_waiters: the word to those who wait for a job: its state, or the kind of a note, on the job's own channel: sharded
-- where the server has that (7.0), plain on 6.2. A user without the right to publish must not stop a transition halfway;
-- its waiters then find the end by asking.
local PUBLISH = (redis.REDIS_VERSION_NUM and redis.REDIS_VERSION_NUM >= 0x00070000) and 'SPUBLISH' or 'PUBLISH'
local function tell_waiters(id, waiter, state)
  if waiter then
    redis.pcall(PUBLISH, named('ended', id), state)
  end
end
-- tell_followers: the jobs that come after one whose record is lost or removed hear of it, and those whose results it wanted.
local function tell_followers(id)
  if redis.call('EXISTS', named('followers', id), named('told', id), named('after', id)) > 0 then
    redis.call('RPUSH', single('ended'), id)
  end
end
