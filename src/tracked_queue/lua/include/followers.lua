-- Jobs that come after others.  Of those, `waits` have not ended, and `failed` have without success; `revives` of the latter may
-- come back: they are dead, or failed themselves for such a one.  `gathering` says that more are still being named (see
-- follow.lua), and counts as one that has not ended.

-- may_revive: whether a job that has ended may come back by a requeue: its own, or that of one before it.
local function may_revive(state, revives)
  return state == 'dead' or state == 'failed' and number_of(revives) > 0
end

-- meant: what that comes to: 'waiting', 'queued' (it may run), 'failed' or 'cancelled'.
local NOT_NEEDED = 'not needed: what it is the fallback of succeeded'
local function meant(rule, waits, failed)
  if rule == 'fallback' then
    return failed > 0 and 'queued' or waits > 0 and 'waiting' or 'cancelled'
  elseif rule == 'fail' and failed > 0 then
    return 'failed'
  end
  return waits > 0 and 'waiting' or 'queued'
end
-- look_back: how the jobs stand that one comes after, which is named in `after`; or nil and the id of one without a record, or
-- untracked.  seen: ids that this batch stores -> '1', or '0' for an untracked one.  stand_ins: ids of this batch that were not
-- stored -> who holds their unique key.
local function look_back(after, seen, stand_ins)
  local back = { ids = {}, states = {}, open = {}, failed = 0, revive = {} }
  for at, id in ipairs(after) do
    id = stand_ins[id] or id
    local state, tracked, revives = 'queued', seen[id], nil
    if not tracked then
      local found = read_fields(named('job', id), 'state', 'tracked', 'revives')
      state, tracked, revives = found[1], found[2], found[3]
    end
    if not state or tracked == '0' then
      return nil, id
    end
    back.ids[at], back.states[at] = id, state
    if not FINAL[state] then
      back.open[#back.open + 1] = id
    elseif state ~= 'succeeded' then
      back.failed = back.failed + 1
      if may_revive(state, revives) then
        back.revive[#back.revive + 1] = id
      end
    end
  end
  return back
end
-- link: the word to them that this one comes after them.  Of the first `wants` it wants the results: their records are kept
-- until it has ended (see tend).
local function link(id, back, wants)
  for _, other in ipairs(back.open) do
    redis.call('RPUSH', named('followers', other), id)
    redis.call('HSET', named('job', other), 'tied', '1', 'followed', '1')
  end
  for _, other in ipairs(back.revive) do
    redis.pcall('RPUSH', named('told', other), id)
  end
  wants = math.min(wants, #back.ids)
  if wants > 0 then
    redis.call('HSET', named('job', id), 'wants', '1')
  end
  for at = 1, wants do
    local other, state = back.ids[at], back.states[at]
    local job = named('job', other)
    redis.call('RPUSH', named('after', id), other)
    if redis.call('HINCRBY', job, 'holds', 1) == 1 and FINAL[state] then
      local left_ms = redis.call('PTTL', job)
      if left_ms > 0 then
        redis.call('HSET', job, 'keep_ms', left_ms)
        redis.call('PERSIST', job)
      end
    end
  end
end
local followers = {}
local function read_follower(id)
  local follower = followers[id]
  if not follower then
    local job = named('job', id)
    local found = read_fields(job, 'state', 'waits', 'failed', 'on_failure', 'queue', 'lane', 'suspicion', 'delay_ms', 'tied',
      'gathering', 'revives', 'unique')
    follower = { id = id, job = job, state = found[1], waits = number_of(found[2]), failed = number_of(found[3]),
      rule = found[4], queue = found[5] or 'default', lane = found[6], suspicion = found[7],
      delay_ms = found[8] and number_of(found[8]), ties = read_ties(id, job, found[9]), gathering = found[10],
      revives = number_of(found[11]), unique = found[12] }
    followers[id] = follower
  end
  return follower
end
-- comes_back: whether one has failed for jobs before it alone, and may wait for them again.  One that has run decides for itself.
local function comes_back(follower)
  return follower.state == 'failed' and follower.revives > 0
end
-- note_ends: more or fewer of those that it comes after have not ended, have failed, may come back.
local function note_ends(follower, waits, failed, revives)
  if follower.state == 'waiting' or comes_back(follower) then
    follower.waits, follower.failed = follower.waits + waits, follower.failed + failed
    redis.call('HSET', follower.job, 'waits', follower.waits, 'failed', follower.failed)
    if revives ~= 0 then
      follower.revives = follower.revives + revives
      redis.call('HSET', follower.job, 'revives', follower.revives)
    end
  end
end
-- end_waiting: as long as it may come back it is kept.
local function end_waiting(follower, state, reason, now, paused)
  redis.call('ZREM', single('dependents'), follower.id)
  local keep = KEPT_MS
  if may_revive(state, follower.revives) then
    redis.call('HSET', follower.job, 'keep_ms', keep)
    keep = 'listed'
  end
  end_job(follower.id, follower.job, follower.queue, follower.ties, paused, state, digits(now), keep, 'reason', reason)
  count(now, state, follower.queue, 1)
  follower.state = state
end
-- end_gathering: not all that one comes after could be named, so it never comes back.
local function end_gathering(follower, reason, now, paused)
  redis.call('HDEL', follower.job, 'gathering', 'revives')
  redis.call('ZREM', single('scheduled'), '\2' .. follower.id)
  follower.gathering, follower.revives = nil, 0
  end_waiting(follower, 'failed', reason, now, paused)
end
-- set_aside: one whose place is taken by a key of another type is dead, where a person sees it, and holds nobody up.
local function set_aside(follower, now, problem)
  redis.call('ZREM', single('dependents'), follower.id)
  redis.call('HSET', follower.job, 'state', 'dead', 'finished_ms', digits(now), 'reason', problem)
  redis.call('ZADD', single('dead'), now, follower.id)
  follower.state = 'dead'
end
-- decide: what the ends so far mean for one that waits.
local FAILED = 'a job that it comes after did not succeed'
local function decide(follower, reason, now, paused)
  if follower.state ~= 'waiting' or follower.gathering then
    return
  end
  local state = meant(follower.rule, follower.waits, follower.failed)
  if state == 'cancelled' then
    end_waiting(follower, state, NOT_NEEDED, now, paused)
  elseif state == 'failed' then
    end_waiting(follower, state, reason, now, paused)
  elseif state == 'queued' then
    redis.call('ZREM', single('dependents'), follower.id)
    redis.call('HDEL', follower.job, 'revives')
    if follower.delay_ms then
      local at = now + follower.delay_ms
      redis.call('HSET', follower.job, 'state', 'scheduled', 'due_ms', digits(at))
      redis.call('ZADD', single('scheduled'), at, follower.id)
      wake(follower.queue, paused)
    else
      redis.call('HSET', follower.job, 'state', 'queued')
      push_job('LPUSH', follower.id, follower.queue, follower.lane, follower.suspicion, paused)
    end
    follower.state = 'queued'
  end
end
