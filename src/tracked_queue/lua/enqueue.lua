-- enqueue: record a batch of jobs and make them takeable, or schedule them.  Called by transitions.enqueue.
--
-- KEYS[1]  tag
-- ARGV: 5 values per job, at most 250 jobs:
--   id       text   made by the producer, so that a resend is known
--   task     text
--   queue    text
--   args     bytes  positional arguments, '' for none
--   more     bytes  '' for a plain job, else packed: tracked, due, kwargs, options:
--            tracked  '1', or '0': removed when fetched
--            due      '-' takeable now; '+ms' from now; 'ms' since 1970 on the server's clock
--            kwargs   named arguments, '' for none
--            options  what the job overrides of its task, '' for nothing; opaque here
-- Derived: job:<id>, queue:<queue>, wake:<queue>, scheduled, queues, paused, stats:<minute>
--
-- Returns one word per job:
--   'created'  recorded
--   'exists'   a job of this id is there, queued, ended or anything between; nothing written for this one
-- Refuses: a full Redis (OOM), before the first write.
-- A record has the fields kwargs, options and tracked only if one of them says something; delivery '0' is the sign of it,
-- so that a fetch reads four fields of a plain job.
-- Keeps: a job whose id is known is never recorded twice; jobs of one queue keep the order of the batch.
-- include keys
-- include now_ms
-- include paused
-- include wake
-- include stats
-- include packed
local now, paused = now_ms(), read_paused()
local first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
local job_prefix = named('job', '')
local words, fresh, seen = {}, {}, {}
for at = 1, #ARGV, 5 do
  local id = ARGV[at]
  if seen[id] or redis.call('EXISTS', job_prefix .. id) == 1 then
    words[#words + 1] = 'exists'
  else
    seen[id] = true
    words[#words + 1] = 'created'
    fresh[#fresh + 1] = at
  end
end

local now_text = digits(now)
local pushes, order, wakes = {}, {}, {}
for _, at in ipairs(fresh) do
  local id, queue, more = ARGV[at], ARGV[at + 2], ARGV[at + 4]
  local tracked, due, kwargs, options = '1', '-', '', ''
  if more ~= '' then
    tracked, due, kwargs, options = read_packed(more)
  end
  local due_ms = nil
  if due ~= '-' then
    due_ms = string.sub(due, 1, 1) == '+' and now + tonumber(string.sub(due, 2)) or tonumber(due)
    if due_ms <= now then
      due_ms = nil
    end
  end
  local job = job_prefix .. id
  redis.call('HSET', job, 'task', ARGV[at + 1], 'queue', queue, 'state', due_ms and 'scheduled' or 'queued',
    'queued_ms', now_text, 'args', ARGV[at + 3])
  if kwargs ~= '' or options ~= '' or tracked == '0' then
    redis.call('HSET', job, 'delivery', '0', 'kwargs', kwargs, 'options', options, 'tracked', tracked)
  end
  local push = pushes[queue]
  if not push then
    push = {}
    pushes[queue] = push
    order[#order + 1] = queue
  end
  if due_ms then
    redis.call('HSET', job, 'due_ms', digits(due_ms))
    redis.call('ZADD', single('scheduled'), due_ms, id)
    if not first_due or due_ms < first_due then
      first_due = due_ms
      wakes[queue] = true
    end
  else
    push[#push + 1] = id
  end
end
for _, queue in ipairs(order) do
  local push = pushes[queue]
  redis.call('SADD', single('queues'), queue)
  if #push > 0 then
    redis.call('LPUSH', named('queue', queue), unpack(push))
    count(now, 'enqueued', queue, #push)
  end
  if #push > 0 or wakes[queue] then
    wake(queue, paused)
  end
end
return words
