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
-- comes_back: whether a job failed only because of jobs before it, and may wait for them again.  Once it has run, its own outcome
-- decides.
local function comes_back(follower)
  return follower.state == 'failed' and follower.revives > 0
end
-- note_ends: adds to a follower's counts of the jobs before it: those that have not ended, that failed, that may come back.
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
-- end_waiting: ends a follower that waits.  Its record is kept while it may still come back.
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
-- end_gathering: fails a follower because not all the jobs before it could be named; so it never comes back.
local function end_gathering(follower, reason, now, paused)
  redis.call('HDEL', follower.job, 'gathering', 'revives')
  redis.call('ZREM', single('scheduled'), '\2' .. follower.id)
  follower.gathering, follower.revives = nil, 0
  end_waiting(follower, 'failed', reason, now, paused)
end
-- set_aside: a follower that can't be queued, because a key of another type is in its place, becomes dead, where a person sees
-- it, and doesn't hold up the others.
local function set_aside(follower, now, problem)
  redis.call('ZREM', single('dependents'), follower.id)
  redis.call('HSET', follower.job, 'state', 'dead', 'finished_ms', digits(now), 'reason', problem)
  redis.call('ZADD', single('dead'), now, follower.id)
  follower.state = 'dead'
end
-- decide: queues, schedules or ends a waiting follower, if the ends so far of the jobs before it call for that.
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
