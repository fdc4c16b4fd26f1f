-- requeue: give dead jobs another life, on a person's word.  Called by transitions.requeue.
--
-- KEYS[1]  tag
-- ARGV     id  text  at most 250
-- Derived: job:<id>, dead, queue:<q>, suspects:<q>, wake:<q>, queues, paused, stats:<minute>
--
-- Returns one word per job:
--   'ok'        queued, with attempts and charges at 0; its suspicion stays, so that a suspect stays one
--   'not_dead'  it is not dead (any more); nothing written
--   'unusable'  it has no task: what was found had no record; nothing written
--   'gone'      no record; nothing written
-- include keys
-- include now_ms
-- include paused
-- include wake
-- include stats
local now, paused = now_ms(), read_paused()
local words, records, seen = {}, {}, {}
for at = 1, #ARGV do
  local id = ARGV[at]
  local found = redis.call('HMGET', named('job', id), 'state', 'queue', 'task', 'suspicion')
  if not found[1] then
    words[at] = 'gone'
  elseif found[1] ~= 'dead' or seen[id] then
    words[at] = 'not_dead'
  elseif not found[3] then
    words[at] = 'unusable'
  else
    seen[id] = true
    words[at] = 'ok'
    records[#records + 1] = { id, found[2], tonumber(found[4] or '0') }
  end
end
for _, record in ipairs(records) do
  local id, queue = record[1], record[2]
  redis.call('HSET', named('job', id), 'state', 'queued', 'queued_ms', now, 'attempts', 0, 'charges', 0)
  redis.call('HDEL', named('job', id), 'reason', 'finished_ms', 'cancel', 'waiter')
  redis.call('ZREM', single('dead'), id)
  redis.call('LPUSH', named(record[3] >= 2 and 'suspects' or 'queue', queue), id)
  redis.call('SADD', single('queues'), queue)
  wake(queue, paused)
  count(now, 'requeued', queue, 1)
end
return words
