-- lanes: the jobs of one queue that share limits or a turn wait in a lane, a list `lane:<lane>` for each combination.  A lane is
-- named '<queue>\n<what they share>'.  A lane that holds jobs is in exactly one place: in lanes:<queue>, a zset in the order
-- of turns, while its head may be taken; or, while a limit is full, in the group of that limit (see limits.lua).
local function ready_lane(lane, paused)
  local queue = string.match(lane, '^[^\n]*')
  local lanes = named('lanes', queue)
  local last = redis.call('ZREVRANGE', lanes, 0, 0, 'WITHSCORES')
  redis.call('ZADD', lanes, 'NX', tonumber(last[2] or '0') + 1, lane)
  wake(queue, paused)
end
