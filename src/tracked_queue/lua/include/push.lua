-- push_job: makes a job takeable: in its queue's list, in its lane, or among the suspects.  verb: 'LPUSH' for the end of the
-- line, 'RPUSH' for its head.  A record that has lost its queue goes to the default one, a lane of another queue is none.
local function push_job(verb, id, queue, lane, suspicion, paused)
  queue = queue or 'default'
  lane = lane and string.sub(lane, 1, #queue + 1) == queue .. '\n' and lane
  local first = false
  if number_of(suspicion) >= 2 then
    first = redis.call(verb, named('suspects', queue), id) == 1
    wake(queue, paused)
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
