-- end_job: the writes that every end of a job has in common: its state and time, its expiry, its unique key, and the notice to
-- those who wait for it, to the jobs that come after it, and to those whose results it wanted (see tend).  Permits belong to a
-- delivery: settle and recover free them.
-- job: the record's key.  ties: from read_ties.  keep: ms for which the record stays; 'dead' for a dead job, which stays until
-- a person or trim removes it; 'listed' for a job whose id is still in a list, or that may come back: its record may expire only
-- once neither is the case (then keep_ms is among the fields; see expiry.lua).  Any further arguments: fields and values.
-- The record of a job that others come after stays until they have been notified.
local function end_job(id, job, queue, ties, paused, state, now, keep, ...)
  redis.call('HSET', job, 'state', state, 'finished_ms', now, ...)
  if state ~= 'dead' then
    note_end(queue, now, state, id)
  end
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
