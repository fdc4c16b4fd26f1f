-- requeue: give dead jobs another life, at a person's request.  Called by transitions.requeue.
--
-- KEYS[1]  tag
-- ARGV[1]  by  text  who asks for it
-- ARGV[2..] id text  at most 70
-- Derived: job:<id>, dead, queue:<q>, lane:<lane>, lanes:<q>, laned, laned:<q>, wake:<q>, unique:<key>,
--          told:<id>, ended, timer, wake_timer, queues, paused, stats:<minute>
--
-- Returns one word per job:
--   'ok'        queued, with attempts at 0, and above suspicion.  Jobs that had ended
--               'failed' because it was dead wait for it again (see lua/include/tend.lua)
--   'not_dead'  it is not dead (any more); nothing written
--   'unusable'  it has no task: what was found had no record; nothing written
--   'gone'      no record; nothing written
--   'held'      its unique key is held by another job; nothing written
-- include keys
-- include number
-- include now_ms
-- include paused
-- include wake
-- include record
-- include states
-- include unique
-- include timer
-- include lanes
-- include push
-- include stats
-- include history
local now, paused = now_ms(), read_paused()
local by = ARGV[1]
local words, records, seen, claimed = {}, {}, {}, {}
for at = 2, #ARGV do
  local id = ARGV[at]
  local found = read_fields(named('job', id), 'state', 'queue', 'task', 'lane', 'unique', 'events')
  if not found[1] then
    words[#words + 1] = 'gone'
  elseif found[1] ~= 'dead' or seen[id] then
    words[#words + 1] = 'not_dead'
  elseif not found[3] then
    words[#words + 1] = 'unusable'
  else
    local holder = found[5] and live_holder(found[5], 'done')
    if holder and holder ~= id or found[5] and claimed[found[5]] then
      words[#words + 1] = 'held'
    else
      seen[id] = true
      if found[5] then
        claimed[found[5]] = true
      end
      words[#words + 1] = 'ok'
      records[#records + 1] = { id, found[2], found[4], found[5], found[6] }
    end
  end
end
for _, record in ipairs(records) do
  local id, queue = record[1], queue_of(record[2])
  redis.call('HSET', named('job', id), 'state', 'queued', 'queued_ms', now, 'attempts', 0)
  redis.call('HDEL', named('job', id), 'reason', 'finished_ms', 'cancel', 'waiter', 'expires_ms', 'keep_ms',
    'revives', 'waits', 'failed', 'pool', 'past', 'charges', 'deaths')
  redis.call('HSET', named('job', id), event_of(record[5], now, 'requeued', '', '', by))
  redis.call('ZREM', single('dead'), id)
  if redis.call('EXISTS', named('told', id)) == 1 then
    redis.call('HSET', named('job', id), 'tied', '1', 'followed', '1')
    redis.call('RPUSH', single('ended'), id)
    call_timer(now)
  end
  if record[4] then
    redis.call('SET', named('unique', record[4]), id)
  end
  push_job('LPUSH', id, queue, record[3], nil, paused)
  redis.call('SADD', single('queues'), queue)
  count(now, 'requeued', queue, 1)
end
return words
