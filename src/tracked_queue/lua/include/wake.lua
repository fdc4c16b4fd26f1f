-- wake: set a queue's marker, for which idle workers wait in BZPOPMIN.  Every script that makes a job takeable, or
-- makes a new earliest due time, calls it.  `paused` comes from read_paused: a paused queue has no marker.
local woken = {}
local function wake(queue, paused)
  if not woken[queue] and not paused['queue:' .. queue] then
    woken[queue] = true
    redis.call('ZADD', named('wake', queue), 0, 'takeable')
  end
end
-- wake_suspects: the same for suspects; only processes that may take a suspect wait for this marker.
local function wake_suspects(queue, paused)
  if not paused['queue:' .. queue] then
    redis.call('ZADD', named('wake_suspects', queue), 0, 'takeable')
  end
end
