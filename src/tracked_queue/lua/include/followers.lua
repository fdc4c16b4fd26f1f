-- What becomes of jobs that come after others; see after.lua.
local followers = {}
local function read_follower(id)
  local follower = followers[id]
  if not follower then
    local job = named('job', id)
    local found = read_fields(job, 'state', 'waits', 'failed', 'on_failure', 'queue', 'lane', 'pool', 'delay_ms', 'tied',
      'gathering', 'revives', 'unique')
    follower = { id = id, job = job, state = found[1], waits = number_of(found[2]), failed = number_of(found[3]),
      rule = found[4], queue = queue_of(found[5]), lane = found[6], pool = found[7],
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
      redis.call('HSET', follower.job, 'state', 'scheduled', 'due_ms', digits(at), 'set_ms', digits(now))
      redis.call('ZADD', single('scheduled'), at, follower.id)
      call_timer(at)
    else
      redis.call('HSET', follower.job, 'state', 'queued')
      push_job('LPUSH', follower.id, follower.queue, follower.lane, follower.pool, paused)
    end
    follower.state = 'queued'
  end
end
