-- may_revive: whether a job that has ended may come back through a requeue: its own, or that of a job before it (see
-- followers.lua).
local function may_revive(state, revives)
  return state == 'dead' or state == 'failed' and number_of(revives) > 0
end
-- let_expire: lets an ended job's record expire, once its id is in no list (`listed`), its followers have all been notified of
-- the end (`followed`), no job wants its result (`holds`), and it can't come back.  Without `keep_ms` the expiry was set when
-- the job ended.
local function let_expire(job)
  local found = read_fields(job, 'state', 'keep_ms', 'listed', 'followed', 'holds', 'revives')
  if not FINAL[found[1]] or found[3] or found[4] or found[5] or may_revive(found[1], found[6]) then
    return
  end
  if found[2] or redis.call('PTTL', job) < 0 then
    redis.call('PEXPIRE', job, number_of(found[2], 120000))
  end
end
-- unlist: for a job that ended while its id was in a list, once the id has left that list.
local function unlist(job)
  redis.call('HDEL', job, 'listed')
  let_expire(job)
end
