-- suspend: puts a job into the line of suspects; see suspects.lua.
local function suspend(id, queue, at, paused)
  local came = redis.call('ZADD', named('suspected', queue), at, id)
  redis.call('SADD', single('suspecting'), queue)
  wake_suspects(queue, paused)
  return came == 1
end
-- push_job: makes a job takeable: in its queue's list, in its lane, or among the suspects.  verb: 'LPUSH' for the end of the
-- line, 'RPUSH' for its head.  pool: set for a suspect, which gets the place in its line of one that came at `since`, or now if
-- that is nil.  A lane of another queue is ignored.
local function push_job(verb, id, queue, lane, pool, paused, since)
  lane = lane and string.sub(lane, 1, #queue + 1) == queue .. '\n' and lane
  local first = false
  if pool then
    first = suspend(id, queue, since or now_ms(), paused)
  elseif lane then
    redis.call('HINCRBY', single('laned'), queue, 1)
    redis.call('HINCRBY', named('laned', queue), lane, 1)
    first = redis.call(verb, named('lane', lane), id) == 1
    if first then
      ready_lane(lane, paused)
    end
  else
    first = redis.call(verb, named('queue', queue), id) == 1
    wake(queue, paused)
  end
  if first then
    redis.call('SADD', single('queues'), queue)  -- its name may have been forgotten meanwhile
  end
end
