-- limits: lanes that wait for a place in a full limit, and the queues to which a place is offered (docs/explanation/waking.md).
--
-- The waiting lanes of one queue are a group, the zset `waiting:<limit>\n<queue>`: lane -> turn.  The group is closed while its
-- queue is in waits:<limit> (queue -> when it last had a place), open while the limit is in open:<queue> (limit -> that time).
-- The limit of a closed group is full, or is in `opens` (limit -> when to offer its places; '\1<base>': a limit of that base was
-- raised).  about:<limit> describes the limit, as the job that waited first has it; waited:<base> names the limits of a base (a
-- limit's name without its key's value) that something waits for.  All these keys go with a limit's last group.
local ROUND, LAST_ROUND, ROUND_MS, OFFERED, SOON_MS, RAISED = 4, 32, 20, 32, 5, 50
local function group_of(limit, queue)
  return named('waiting', limit .. '\n' .. queue)
end
local numbers = {}
-- most_of: a limit's number.  That of the instance which started last counts (see register), so a deploy changes it for waiting
-- jobs too.
local function most_of(base, own)
  if numbers[base] == nil then
    numbers[base] = number_of(redis.call('HGET', single('limits'), base), false)
  end
  return math.min(numbers[base] or own, MOST_OF_LIMIT)
end
-- start_of: when a rate will have room, or nil if it has room now.  nth: the time of the start that must leave the window first.
local function start_of(nth, ms, now)
  nth = math.min(number_of(nth), now)  -- a time in the future was written by a clock that was ahead
  return nth > 0 and nth + ms > now and nth + ms or nil
end
-- rewind: starts whose time is in the future, since a clock that was ahead wrote it, count as started now.
local REWRITTEN = 1000
local function rewind(name, most, now)
  local starts = redis.call('LRANGE', named('rate', name), 0, math.min(most, REWRITTEN) - 1)
  for i, start_ms in ipairs(starts) do
    if number_of(start_ms) > now then
      redis.call('LSET', named('rate', name), i - 1, digits(now))
    end
  end
end
-- join: puts a lane into the group that waits for a full limit; a new group is closed.
local function join(limit, queue, lane, now)
  local name = limit.name
  local group = group_of(name, queue)
  local last = redis.call('ZREVRANGE', group, 0, 0, 'WITHSCORES')
  -- A group that this call has emptied is still in one of these.
  if not last[1] and not redis.call('ZSCORE', named('waits', name), queue)
    and not redis.call('ZSCORE', named('open', queue), name) then
    local about = named('about', name)
    if redis.call('HINCRBY', about, 'groups', 1) == 1 then
      local base = limit.base_length and string.sub(name, 1, limit.base_length) or name
      redis.call('HSET', about, 'kind', limit.kind, 'number', limit.most, 'ms', limit.ms or 0, 'base', base)
      redis.call('ZADD', named('waited', base), 0, name)
    end
    redis.call('ZADD', named('waits', name), now, queue)
  end
  redis.call('ZADD', group, 'NX', tonumber(last[2] or '0') + 1, lane)
end
-- close: closes a group whose limit is full.  turn: when the queue last had a place.  starts: when a rate will have room again.
local function close(name, queue, turn, starts, now)
  if redis.call('ZREM', named('open', queue), name) == 1 then
    redis.call('ZADD', named('waits', name), turn, queue)
  end
  if starts then
    starts = math.max(starts, now + SOON_MS)
    redis.call('ZADD', single('opens'), starts, name)
    call_timer(starts)
  end
end
-- forget_group: removes a group that is empty.
local function forget_group(name, queue)
  redis.call('ZREM', named('open', queue), name)
  redis.call('ZREM', named('waits', name), queue)
  local about = named('about', name)
  if redis.call('HINCRBY', about, 'groups', -1) <= 0 then
    redis.call('ZREM', named('waited', redis.call('HGET', about, 'base') or name), name)
    redis.call('DEL', about)
    redis.call('ZREM', single('opens'), name)
  end
end
-- leave_groups: takes a lane that is empty out of its groups.
local function leave_groups(lane, queue, limits)
  for _, limit in ipairs(limits) do
    local group = group_of(limit.name, queue)
    if redis.call('ZREM', group, lane) == 1 and redis.call('EXISTS', group) == 0 then
      forget_group(limit.name, queue)
    end
  end
end
-- offer: offers a limit's free places to the queues that have gone longest without one.  It opens their groups, until it has set
-- `round` markers that were not set before; one that was already set means that no worker is waiting there.  The other queues
-- get their offer a little later, more of them at once, if a place is still free then.  Returns how many queues it visited.
local function offer(name, round, now, paused)
  local about = redis.call('HMGET', named('about', name), 'kind', 'number', 'ms', 'base')
  if not about[1] then
    return 0  -- nothing waits
  end
  local most, starts = most_of(about[4], number_of(about[2], 1)), nil
  local is_full = false
  if about[1] == 'concurrency' then
    is_full = redis.call('SCARD', named('permits', name)) >= most
  else
    local nth = redis.call('LINDEX', named('rate', name), most - 1)
    starts = start_of(nth, number_of(about[3]), now)
    if number_of(nth) > now then
      rewind(name, most, now)
    end
  end
  local visited = 0
  if not (is_full or starts) then
    local queues, woke = redis.call('ZRANGE', named('waits', name), 0, OFFERED - 1, 'WITHSCORES'), 0
    while visited * 2 < #queues and woke < round do
      local queue, turn = queues[visited * 2 + 1], queues[visited * 2 + 2]
      visited = visited + 1
      redis.call('ZREM', named('waits', name), queue)
      redis.call('ZADD', named('open', queue), turn, name)
      if not woken[queue] and not paused['queue:' .. queue] then
        woke = woke + redis.call('ZADD', named('wake', queue), 0, 'takeable')
        woken[queue] = true
      end
    end
    starts = now + ROUND_MS
    redis.call('HSET', named('about', name), 'round', round)
  end
  if starts and redis.call('EXISTS', named('waits', name)) == 1 then
    starts = math.max(starts, now + SOON_MS)
    redis.call('ZADD', single('opens'), starts, name)
    call_timer(starts)
  else
    redis.call('ZREM', single('opens'), name)
  end
  return visited
end
-- offer_due: makes the offers that are due in `opens`, until `most` queues have been visited.  The entry of a raised base stays
-- there until all its limits have been entered.
local function offer_due(now, paused, most)
  local visited = 0
  while visited < most do
    local due = redis.call('ZRANGEBYSCORE', single('opens'), '-inf', now, 'LIMIT', 0, 1)[1]
    if not due then
      break
    elseif string.byte(due) == 1 then
      local base = string.sub(due, 2)
      local field = 'from:' .. base
      local from = redis.call('HGET', single('timer'), field)
      local names = redis.call('ZRANGEBYLEX', named('waited', base), from and '(' .. from or '-', '+', 'LIMIT', 0, RAISED)
      for _, name in ipairs(names) do
        redis.call('ZADD', single('opens'), now, name)
      end
      if #names == RAISED then
        redis.call('HSET', single('timer'), field, names[#names])
      else
        redis.call('HDEL', single('timer'), field)
        redis.call('ZREM', single('opens'), due)
      end
      visited = visited + #names
    else
      local about = redis.call('HMGET', named('about', due), 'kind', 'round')
      if not about[1] then
        redis.call('ZREM', single('opens'), due)
      else
        local round = math.max(ROUND, 2 * number_of(about[2], ROUND))
        visited = visited + offer(due, math.min(round, LAST_ROUND), now, paused)
      end
    end
    visited = visited + 1
  end
end
-- free_permits: frees a job's places in its limits, when a delivery is over; offer_freed offers them at the end of the call.
-- limits: from read_limits.
local freed = {}
local function free_permits(id, limits)
  for _, limit in ipairs(limits) do
    if limit.kind == 'concurrency' and redis.call('SREM', named('permits', limit.name), id) == 1 then
      freed[limit.name] = (freed[limit.name] or 0) + 1
    end
  end
end
local function offer_freed(now, paused)
  for name, places in pairs(freed) do
    offer(name, math.min(ROUND * places, LAST_ROUND), now, paused)
  end
end
