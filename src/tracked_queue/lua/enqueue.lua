-- enqueue: record a batch of jobs and make them takeable, or schedule them.  Called by transitions.enqueue.
--
-- KEYS[1]  tag
-- ARGV: 8 values per job, at most 250 jobs:
--   id       text   made by the producer, so that a resend is known
--   task     text
--   queue    text
--   args     bytes  positional arguments, '' for none
--   kwargs   bytes  named arguments, '' for none
--   options  bytes  what the job overrides of its task, '' for nothing; opaque here
--   due      text   '' takeable now; '+ms' from now; 'ms' since 1970 on the server's clock
--   tracked  text   '1', or '0': removed when fetched
-- Derived: job:<id>, queue:<queue>, wake:<queue>, scheduled, queues, paused, stats:<minute>
--
-- Returns one word per job:
--   'created'  recorded
--   'exists'   a job of this id is there, queued, ended or anything between; nothing written for this one
-- Refuses: a full Redis (OOM), before the first write.
-- Keeps: a job whose id is known is never recorded twice; jobs of one queue keep the order of the batch.
-- include keys
-- include now_ms
-- include paused
-- include wake
-- include stats
local now, paused = now_ms(), read_paused()
local first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
local words, fresh, seen = {}, {}, {}
for at = 1, #ARGV, 8 do
  local id = ARGV[at]
  if seen[id] or redis.call('EXISTS', named('job', id)) == 1 then
    words[#words + 1] = 'exists'
  else
    seen[id] = true
    words[#words + 1] = 'created'
    fresh[#fresh + 1] = at
  end
end

local pushes, order, wakes = {}, {}, {}
for _, at in ipairs(fresh) do
  local id, queue, due = ARGV[at], ARGV[at + 2], ARGV[at + 6]
  local due_ms = nil
  if string.sub(due, 1, 1) == '+' then
    due_ms = now + tonumber(string.sub(due, 2))
  elseif due ~= '' then
    due_ms = tonumber(due)
  end
  if due_ms and due_ms <= now then
    due_ms = nil
  end
  local fields = { 'task', ARGV[at + 1], 'queue', queue, 'state', due_ms and 'scheduled' or 'queued', 'queued_ms', now }
  if ARGV[at + 3] ~= '' then
    fields[#fields + 1] = 'args'
    fields[#fields + 1] = ARGV[at + 3]
  end
  if ARGV[at + 4] ~= '' then
    fields[#fields + 1] = 'kwargs'
    fields[#fields + 1] = ARGV[at + 4]
  end
  if ARGV[at + 5] ~= '' then
    fields[#fields + 1] = 'options'
    fields[#fields + 1] = ARGV[at + 5]
  end
  if ARGV[at + 7] == '0' then
    fields[#fields + 1] = 'tracked'
    fields[#fields + 1] = '0'
  end
  if due_ms then
    fields[#fields + 1] = 'due_ms'
    fields[#fields + 1] = due_ms
  end
  redis.call('HSET', named('job', id), unpack(fields))
  if not pushes[queue] then
    pushes[queue] = {}
    order[#order + 1] = queue
  end
  if due_ms then
    redis.call('ZADD', single('scheduled'), due_ms, id)
    if not first_due or due_ms < first_due then
      first_due = due_ms
      wakes[queue] = true
    end
  else
    pushes[queue][#pushes[queue] + 1] = id
    wakes[queue] = true
  end
end
for _, queue in ipairs(order) do
  redis.call('SADD', single('queues'), queue)
  if #pushes[queue] > 0 then
    redis.call('LPUSH', named('queue', queue), unpack(pushes[queue]))
    count(now, 'enqueued', queue, #pushes[queue])
  end
  if wakes[queue] then
    wake(queue, paused)
  end
end
return words
