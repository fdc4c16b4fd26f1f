-- end_job: writes that every end of a job shares: its state and time, its expiry, its unique key, the word to those who
-- wait for it, to the jobs that come after it, and to those whose results it wanted (see tend).  Permits belong to a
-- delivery: settle and recover free them.
-- job: the record's key.  ties: of read_ties.  keep: ms for which the record stays; 'dead' for a dead job, which stays until
-- a person or the trim removes it; 'listed' for one whose id still stands in a list, or that may come back: it may expire only
-- when that is over (then keep_ms is among the fields; see expiry.lua).  The rest: further fields and values.
-- A job that others come after keeps its record until they are told.
local function end_job(id, job, queue, ties, paused, state, now, keep, ...)
  redis.call('HSET', job, 'state', state, 'finished_ms', now, ...)
  if keep == 'dead' then
    redis.call('ZADD', single('dead'), now, id)
  elseif ties.followed and keep ~= 'listed' then
    redis.call('HSET', job, 'keep_ms', keep)
  elseif keep ~= 'listed' then
    redis.call('PEXPIRE', job, keep)
  end
  if ties == FREE then
    return
  end
  if ties.unique then
    redis.call('DEL', named('unique', ties.unique))
  end
  if ties.followed or ties.wants then
    redis.call('RPUSH', single('ended'), id)
    call_timer(tonumber(now))
  end
  tell_waiters(id, ties.waiter, state)
end
