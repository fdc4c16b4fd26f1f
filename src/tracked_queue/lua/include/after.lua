-- Jobs that come after others.  Such a job counts the jobs before it: `waits` of them have not ended; `failed` have ended without
-- success; `revives` of those that failed may come back, since they are dead, or failed because of a dead job.  `gathering` says
-- that more are still being named (see follow.lua); it counts as one job that has not ended.

local FAILED = 'a job that it comes after did not succeed'
-- meant: the state that a job gets by its rule and these counts: 'waiting', 'queued' (it may run), 'failed' or 'cancelled'.
local NOT_NEEDED = 'not needed: what it is the fallback of succeeded'
local function meant(rule, waits, failed)
  if rule == 'fallback' then
    return failed > 0 and 'queued' or waits > 0 and 'waiting' or 'cancelled'
  elseif rule == 'fail' and failed > 0 then
    return 'failed'
  end
  return waits > 0 and 'waiting' or 'queued'
end
-- look_back: the states of the jobs named in `after`; or nil, and the id of one that has no record or is untracked.
-- An id that an earlier enqueue with `known` did not store stands for the job that held its unique key then.
-- seen: ids that this batch stores -> '1', or '0' for an untracked job.  stand_ins: ids of this batch that were not stored -> the
-- job that holds their unique key.
local function look_back(after, seen, stand_ins)
  local back = { ids = {}, states = {}, open = {}, failed = 0, revive = {} }
  for at, id in ipairs(after) do
    id = stand_ins[id] or id
    local state, tracked, revives = 'queued', seen[id], nil
    if not tracked then
      local found = read_fields(named('job', id), 'state', 'tracked', 'revives')
      if not found[1] then
        local known = redis.call('GET', named('known', id))
        local stand_in = known and cmsgpack.unpack(known)[3]
        if stand_in then
          id = stand_in
          found = read_fields(named('job', id), 'state', 'tracked', 'revives')
        end
      end
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
-- link: notes on the jobs in `back` that this one comes after them.  It wants the results of the first `wants` of them, whose
-- records are kept until it has ended (see tend).
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
