-- settle: record outcomes of deliveries that still own their job.  Called by transitions.settle.
--
-- KEYS[1]  tag
-- ARGV[1]  lease          text
-- ARGV[2]  resend_window  int  ms for which an ended job's id stays known at least
-- then 6 values per outcome, at most 250:
--   id        text
--   delivery  int    number given out by fetch; fences a late outcome
--   outcome   word   'succeeded' 'failed' 'cancelled': ended, kept for ms
--                    'retry': an attempt is spent, due again in ms
--                    'dead': set aside, with reason
--                    'interrupted': handed back to the right end of its queue; counts an interruption
--                    'unstarted': handed back before it ran; counts nothing, and it is not buffered again
--                    'parked': set aside until an instance beats that knows the task
--   ms        int    see above
--   payload   bytes  encoded result ('succeeded'), else encoded error; '' for none
--   reason    text   for people; '' for none
-- Derived: processing:<lease>, instance:<lease>, cancel:<lease>, job:<id>, scheduled, dead, queue:<q>, suspects:<q>,
--          wake:<q>, parked, parked:<task>, paused, stats:<minute>
--
-- Returns one word per outcome:
--   'ok'       recorded
--   'again'    this very delivery had settled it (a resend); nothing written
--   'fenced'   the job belongs to another delivery; nothing written
--   'gone'     no record; the id leaves the processing list, if it is there
-- A wish to cancel turns every outcome but success into 'cancelled'; the word is 'ok' all the same.
-- Keeps: an id is in one place; a settled delivery never changes its outcome.
-- include keys
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include ended
-- include stats
local lease, window = ARGV[1], tonumber(ARGV[2])
local processing = named('processing', lease)
local now, paused = now_ms(), read_paused()

-- Read.
local owned = {}
for _, id in ipairs(redis.call('LRANGE', processing, 0, -1)) do
  owned[id] = true
end
local suspect = redis.call('HGET', named('instance', lease), 'suspect')
local first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
local words, accepted, vanished = {}, {}, {}
for at = 3, #ARGV, 6 do
  local id, delivery = ARGV[at], ARGV[at + 1]
  local job = named('job', id)
  local seen = redis.call('HMGET', job, 'delivery', 'settled', 'state', 'queue', 'task', 'waiter', 'cancel',
    'attempts', 'interruptions', 'recoveries')
  local word
  if not seen[3] then
    word = 'gone'
    if owned[id] then
      vanished[#vanished + 1] = id
      owned[id] = nil
    end
  elseif seen[2] == delivery then
    word = 'again'
  elseif seen[1] ~= delivery or not owned[id] then
    word = 'fenced'
  else
    word = 'ok'
    owned[id] = nil
    accepted[#accepted + 1] = {
      id = id, job = job, delivery = delivery, outcome = ARGV[at + 2], ms = tonumber(ARGV[at + 3]),
      payload = ARGV[at + 4], reason = ARGV[at + 5], queue = seen[4], task = seen[5], waiter = seen[6],
      cancel = seen[7], attempts = seen[8], interruptions = seen[9], recoveries = tonumber(seen[10] or '0'),
    }
  end
  words[#words + 1] = word
end

-- Write.
begin_writing()
for _, id in ipairs(vanished) do
  redis.call('LREM', processing, -1, id)
end
local counts, order = {}, {}
for _, item in ipairs(accepted) do
  local outcome, job = item.outcome, item.job
  redis.call('LREM', processing, -1, item.id)
  if item.cancel then
    redis.call('SREM', named('cancel', lease), item.id)
    if outcome ~= 'succeeded' then
      outcome = 'cancelled'
      item.ms = tonumber(redis.call('HGET', job, 'keep_ms') or '0')
    end
  end
  if item.id == suspect then
    redis.call('HDEL', named('instance', lease), 'suspect')
    if redis.call('LLEN', named('suspects', item.queue)) > 0 then
      wake(item.queue, paused)
    end
  end
  if outcome == 'succeeded' then
    if item.payload == '' then
      end_job(item, outcome, now, math.max(item.ms, window), 'settled', item.delivery)
    else
      end_job(item, outcome, now, math.max(item.ms, window), 'settled', item.delivery, 'result', item.payload)
    end
  elseif outcome == 'failed' or outcome == 'cancelled' then
    end_job(item, outcome, now, math.max(item.ms, window), 'settled', item.delivery, 'error', item.payload,
      'reason', item.reason)
  elseif outcome == 'dead' then
    end_job(item, outcome, now, nil, 'settled', item.delivery, 'error', item.payload, 'reason', item.reason,
      'attempts', tonumber(item.attempts or '0') + 1)
  elseif outcome == 'retry' then
    local fields = { 'settled', item.delivery, 'error', item.payload, 'attempts', tonumber(item.attempts or '0') + 1 }
    if item.ms > 0 then
      local due = now + item.ms
      redis.call('HSET', job, 'state', 'scheduled', 'due_ms', due, unpack(fields))
      redis.call('ZADD', single('scheduled'), due, item.id)
      if not first_due or due < first_due then
        first_due = due
        wake(item.queue, paused)
      end
    else
      redis.call('HSET', job, 'state', 'queued', unpack(fields))
      redis.call('LPUSH', named('queue', item.queue), item.id)
      wake(item.queue, paused)
    end
  elseif outcome == 'parked' then
    redis.call('HSET', job, 'state', 'parked', 'settled', item.delivery)
    redis.call('LPUSH', named('parked', item.task), item.id)
    redis.call('SADD', single('parked'), item.task)
  else
    -- 'interrupted' and 'unstarted'.  A suspect goes back to the suspects.
    redis.call('HSET', job, 'state', 'queued', 'settled', item.delivery)
    if outcome == 'interrupted' then
      redis.call('HSET', job, 'interruptions', tonumber(item.interruptions or '0') + 1)
    else
      redis.call('HSET', job, 'buffered', 'never')
    end
    redis.call('RPUSH', named(item.recoveries >= 2 and 'suspects' or 'queue', item.queue), item.id)
    wake(item.queue, paused)
  end
  local what = outcome .. ':' .. item.queue
  if not counts[what] then
    counts[what] = { outcome, item.queue, 0 }
    order[#order + 1] = what
  end
  counts[what][3] = counts[what][3] + 1
end
for _, what in ipairs(order) do
  count(now, counts[what][1], counts[what][2], counts[what][3])
end
return words
