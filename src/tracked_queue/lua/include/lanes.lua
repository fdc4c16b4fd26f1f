-- lanes: where the jobs of one queue that share limits or a turn wait, a list `lane:<lane>` for each combination.  A lane is
-- named '<queue>\n<what they share>'.  One that holds jobs stands in exactly one place: in lanes:<queue>, a zset in the
-- order of turns, while its head may be taken; in waiting:<limit> while that limit is full.  A rate that lanes wait for
-- stands in scheduled, as '\1<limit>', at the time of its next start.
local function ready_lane(lane, paused)
  local queue = string.match(lane, '^[^\n]*')
  local lanes = named('lanes', queue)
  local last = redis.call('ZREVRANGE', lanes, 0, 0, 'WITHSCORES')
  redis.call('ZADD', lanes, 'NX', tonumber(last[2] or '0') + 1, lane)
  wake(queue, paused)
end
-- wake_limit: lets the lanes that have waited longest for a limit be looked at again: one of each queue among the first ones,
-- since a limit may be shared over queues, and one of them may be paused, or served by nobody.  Those that get no place wait
-- again.
local WAKE = 20
local function wake_limit(name, paused)
  local queues = {}
  for _, lane in ipairs(redis.call('ZRANGE', named('waiting', name), 0, WAKE - 1)) do
    local queue = string.match(lane, '^[^\n]*')
    if not queues[queue] then
      queues[queue] = true
      redis.call('ZREM', named('waiting', name), lane)
      ready_lane(lane, paused)
    end
  end
end
-- free_permits: a delivery is over; its places in its limits are free.  limits: lists of name, kind ('concurrency' or
-- 'rate'), number, ms, bytes of the name without its key's value.
local function free_permits(id, limits, paused)
  for _, limit in ipairs(limits) do
    if limit[2] == 'concurrency' and redis.call('SREM', named('permits', limit[1]), id) == 1 then
      wake_limit(limit[1], paused)
    end
  end
end
