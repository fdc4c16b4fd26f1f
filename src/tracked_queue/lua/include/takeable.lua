-- is_takeable: whether a queue holds jobs that may be taken, in its list or in lanes that no limit holds up.
local function is_takeable(queue)
  return redis.call('EXISTS', named('queue', queue), named('lanes', queue), named('open', queue)) > 0
end
