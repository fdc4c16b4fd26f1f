-- tend: does what has come due, and passes on ends: due jobs become takeable; places of limits are offered; followers of ended
-- jobs are notified of the end; a job that has ended lets go of the results that it wanted.  One call handles at most DUE jobs,
-- OFFERS queues and TOLD entries, where each follower counts as FOLLOWER entries.
-- Returns whether something is left.
--
-- `ended` is a list of jobs about which others have to be notified.  What happens depends on a job's state by now:
--   open again   a dead job was requeued: followers that had been notified of its end (told:<id>) wait for it again, and so do
--                their own
--   dead         its followers are notified, and noted in told:<id> until it is requeued or removed.  Those that fail because of
--                it may come back with it, and are kept until then (see followers.lua)
--   else         its followers are notified for good; those that had failed because of it stay failed.  Then it lets go of the
--                results that it wanted (after:<id>), and its record may expire once no job wants its result
local DUE, TOLD, FOLLOWER, OFFERS = 80, 250, 3, 300
local function tend(now, paused, some_due, some_opens)
  begin_writing()
  local job_prefix, now_text = named('job', ''), digits(now)
  local due = some_due and redis.call('ZRANGEBYSCORE', single('scheduled'), '-inf', now, 'LIMIT', 0, DUE) or {}
  for _, id in ipairs(due) do
    redis.call('ZREM', single('scheduled'), id)
    local kind = string.byte(id)
    local job = job_prefix .. (kind == 2 and string.sub(id, 2) or id)
    local found = read_fields(job, 'state', 'queue', 'pool', 'lane', 'gathering')
    if kind == 2 then
      if found[1] == 'waiting' and found[5] then
        end_gathering(read_follower(string.sub(id, 2)),
          'its enqueue came to no end: not all that it comes after was named', now, paused)
      end
    elseif not found[1] then
      bury_garbage(id, '', now, 'a scheduled id without a record')
    elseif found[1] == 'scheduled' then
      redis.call('HSET', job, 'state', 'queued')
      push_job('LPUSH', id, queue_of(found[2]), found[4], found[3], paused)
    end
  end

  local budget = TOLD
  -- head: as many of a list's first entries as the budget allows at `price` each; none of a foreign key.  If the list may hold
  -- more, the whole budget is spent.
  local function head(list, price)
    local most = math.floor(budget / price)
    local entries = most > 0 and redis.pcall('LRANGE', list, 0, most - 1) or {}
    if entries.err then
      return {}
    end
    budget = #entries < most and budget - #entries * price or 0
    return entries
  end
  local function cut(list, entries)
    if #entries > 0 then
      redis.call('LTRIM', list, #entries, -1)
    end
  end
  local function push(list, entries)
    if #entries > 0 then
      redis.pcall('RPUSH', list, unpack(entries))  -- a foreign key of that name holds nobody up
    end
  end
  -- each: calls `act` with every follower; a problem with one of them doesn't keep the others from their turn.
  local function each(entries, act)
    for _, entry in ipairs(entries) do
      local follower = read_follower(entry)
      local ok, problem = pcall(act, follower)
      if not ok and follower.state then
        set_aside(follower, now, 'it could not be queued: ' .. tostring(type(problem) == 'table' and problem.err or problem))
      end
    end
  end
  -- not_kept: a follower that has failed and can no longer come back is no longer kept, and its own followers are notified.
  local function not_kept(follower)
    if follower.state == 'failed' and follower.revives == 0 then
      redis.call('RPUSH', single('ended'), follower.id)
    end
  end
  -- revert: makes a follower that had been notified of a job's end wait for that job again.
  local function revert(follower)
    if follower.state ~= 'waiting' and not comes_back(follower) then
      return
    end
    note_ends(follower, 1, -1, -1)
    local holder = follower.unique and live_holder(follower.unique, 'done')
    if follower.state ~= 'failed' or follower.failed > 0 or holder and holder ~= follower.id then
      not_kept(follower)  -- it failed because of another job too, or another job holds its unique key by now
      return
    elseif follower.unique then
      redis.call('SET', named('unique', follower.unique), follower.id)
      follower.ties.unique = follower.unique
    end
    redis.call('HSET', follower.job, 'state', 'waiting')
    redis.call('HDEL', follower.job, 'revives', 'reason', 'finished_ms')
    redis.call('ZADD', single('dependents'), now, follower.id)
    count(now, 'requeued', follower.queue, 1)
    follower.state = 'waiting'
    if redis.call('EXISTS', named('told', follower.id)) == 1 then
      redis.call('HSET', follower.job, 'tied', '1', 'followed', '1')
      redis.call('RPUSH', single('ended'), follower.id)
    end
  end
  local function fail_for_good(follower)
    if follower.state == 'waiting' or comes_back(follower) then
      note_ends(follower, 0, 0, -1)
      not_kept(follower)
    end
  end
  -- let_go: one job fewer wants the result of this one.
  local function let_go(id)
    local job = job_prefix .. id
    local holds = number_of(read_fields(job, 'holds')[1])
    if holds > 1 then
      redis.call('HSET', job, 'holds', holds - 1)
    elseif holds == 1 then
      redis.call('HDEL', job, 'holds')
      let_expire(job)
    end
  end

  while budget > 0 do
    local id = redis.call('LINDEX', single('ended'), 0)
    if not id then
      break
    end
    budget = budget - 1
    local job, before, after = job_prefix .. id, named('told', id), named('followers', id)
    local found = read_fields(job, 'state', 'revives')
    local state = found[1]
    local revives = may_revive(state, found[2])
    local is_final = not state or FINAL[state]
    if not is_final or state == 'succeeded' then
      local entries = head(before, FOLLOWER)
      push(after, entries)
      cut(before, entries)
      each(entries, revert)
      if not is_final and redis.call('EXISTS', after) == 1 then
        redis.call('HSET', job, 'tied', '1', 'followed', '1')
      end
    elseif not revives then
      local entries = head(before, FOLLOWER)
      cut(before, entries)
      each(entries, fail_for_good)
    end
    if is_final then
      local entries = head(after, FOLLOWER)
      cut(after, entries)
      if revives then
        push(before, entries)
      end
      local reason = 'job ' .. id .. ', which it comes after, ended ' .. (state or 'gone')
      each(entries, function(follower)
        note_ends(follower, -1, state == 'succeeded' and 0 or 1, revives and 1 or 0)
        decide(follower, reason, now, paused)
      end)
    end
    if is_final and not revives then
      local wanted = named('after', id)
      local entries = head(wanted, 1)
      cut(wanted, entries)
      for _, entry in ipairs(entries) do
        let_go(entry)
      end
    end
    if budget <= 0 then
      break  -- its lists may hold more
    end
    redis.call('LPOP', single('ended'))
    if state and is_final then
      redis.call('HDEL', job, 'followed')
      let_expire(job)
    end
  end
  if some_opens then
    offer_due(now, paused, OFFERS)
  end
  local opens = some_opens and redis.call('ZRANGE', single('opens'), 0, 0, 'WITHSCORES')[2]
  return #due >= DUE or opens and tonumber(opens) <= now or redis.call('EXISTS', single('ended')) == 1
end
