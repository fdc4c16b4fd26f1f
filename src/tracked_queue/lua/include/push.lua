-- push_job: makes a job takeable: in its queue's list, in its lane, or among the suspects.  verb: 'LPUSH' for the end of the
-- line, 'RPUSH' for its head.
local function push_job(verb, id, queue, lane, suspicion, paused)
  if tonumber(suspicion or '0') >= 2 then
    redis.call(verb, named('suspects', queue), id)
    wake(queue, paused)
  elseif lane then
    redis.call('HINCRBY', single('laned'), queue, 1)
    redis.call('HINCRBY', named('laned', queue), lane, 1)
    if redis.call(verb, named('lane', lane), id) == 1 then
      ready_lane(lane, paused)
    end
  else
    redis.call(verb, named('queue', queue), id)
    wake(queue, paused)
  end
end
