-- may_revive: whether a job that has ended may come back by a requeue: its own, or that of one before it (see followers.lua).
local function may_revive(state, revives)
  return state == 'dead' or state == 'failed' and number_of(revives) > 0
end
-- let_expire: an ended record may go once its id stands in no list (`listed`), everybody was told of its end (`followed`), nobody
-- wants its result (`holds`), and it can't come back.  Without `keep_ms` its expiry was set when it ended.
local function let_expire(job)
  local found = read_fields(job, 'state', 'keep_ms', 'listed', 'followed', 'holds', 'revives')
  if not FINAL[found[1]] or found[3] or found[4] or found[5] or may_revive(found[1], found[6]) then
    return
  end
  if found[2] or redis.call('PTTL', job) < 0 then
    redis.call('PEXPIRE', job, number_of(found[2], 120000))
  end
end
-- unlist: a job that ended while its id stood in a list has left that.
local function unlist(job)
  redis.call('HDEL', job, 'listed')
  let_expire(job)
end
