-- settle: record outcomes of deliveries that still own their job.  Called by transitions.settle.
--
-- KEYS[1]  tag
-- ARGV[1]  lease          text
-- ARGV[2]  resend_window  int   ms for which an ended job's id stays known at least
-- ARGV[3]  result_ttl     int   ms for which a plain success is kept
-- then, for each run of outcomes that are alike, at most 250 outcomes in all:
--   delivery  int    number given out by fetch, usually the same for all jobs of one fetch; fences a late outcome
--   more      bytes  '' for a plain success (no result, kept for result_ttl), else packed: outcome, ms, payload, reason, ran:
--             outcome  'succeeded' 'failed' 'cancelled': ended, kept for ms
--                      'retry': an attempt is spent, due again in ms
--                      'snoozed': no attempt is spent, due again in ms
--                      'dead': set aside, with reason; ms is 1 if it spends an attempt, 0 if it never ran
--                      'interrupted': handed back to the right end of its queue; counts an interruption
--                      'unstarted': handed back before it ran; counts nothing, and it is not buffered again
--                      'parked': set aside until an instance beats that knows the task
--                      'bound': it was enqueued without its task's code, and has not run; payload is MessagePack of a map
--                      with its unique key, lane and limits, as in enqueue.  It goes to its lane (or the left end of
--                      its queue); where its key is held by another job it ends 'cancelled'
--             ms       see above
--             payload  encoded result ('succeeded'), else encoded error; '' for none
--             reason   for people; '' for none
--             ran      ms for which it ran, '' if it did not start; then, where runs are traced, a space and the traceparent
--                      of this one, which is kept for the next one's link ('retry', 'snoozed', 'interrupted')
--   n         int    ids of this run
--   id        text   n times
-- Derived: processing:<lease>, instance:<lease>, cancel:<lease>, job:<id>, ends:<q>, scheduled, dead, queue:<q>, suspected:<q>,
--          suspecting, testing, wake:<q>, wake_suspects:<q>, lane:<lane>, lanes:<q>, laned, laned:<q>, permits:<limit>, rate:<limit>,
--          limits, waits:<limit>, open:<q>, opens, about:<limit>, timer, wake_timer, unique:<key>, ended, followers:<id>,
--          told:<id>, after:<id>, parked, parked:<task>, paused, stats:<minute>, queues
--
-- Returns one word per id:
--   'ok'       recorded
--   'again'    this very delivery had settled it (a resend); nothing written
--   'fenced'   the job belongs to another delivery (also a resend that comes after the next delivery); its history says so
--   'gone'     no record of ours; the id leaves the processing list, if it is there
-- A request to cancel turns every outcome but success into 'cancelled'; the reply is 'ok' all the same.
-- On a full Redis every outcome is still recorded, so that work ends; but results and errors larger than SMALL are left out, and
-- the record of a success says so (`left_out`: the result's size).
-- The last error is in `error`, the four before it in `error:0` to `error:3`, each with its time and lease.
-- Keeps: an id is in one place; a settled delivery never changes its outcome.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include full
-- include paused
-- include wake
-- include record
-- include states
-- include timer
-- include unique
-- include constrain
-- include ties
-- include lanes
-- include limits
-- include push
-- include suspects
-- include waiters
-- include ends
-- include ended
-- include stats
-- include packed
-- include history
-- include ran
-- include late
local SMALL = 1024
-- read_ran: takes `ran` apart: a number or nil, the traceparent or ''.
local function read_ran(text)
  local ms, trace = string.match(text, '^(%d*) ?(.*)$')
  return tonumber(ms), trace
end
local lease, window, result_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local processing = named('processing', lease)
local now, paused = now_ms(), read_paused()

-- Read.
-- decided: what this call has accepted, or found without a record.
local decided = {}
-- Set while this instance has suspects, or had some a moment ago.
local held = redis.call('HGET', named('instance', lease), 'held')
local job_prefix = named('job', '')
-- accepted: ids; negatives (of delivery numbers), mores, queues, ledgers, all_ties and bounds are of the same index.
local words, accepted, negatives, mores, queues, ledgers, all_ties, bounds, vanished = {}, {}, {}, {}, {}, {}, {}, {}, {}
local all_plain, last = true, 0
-- lates: marks on the records of jobs whose outcome came too late, by id.
local lates = {}
local function decide(id, delivery, negative, more)
  local job = job_prefix .. id
  -- The record says who owns a job: the delivery that made it active, under its lease.  The field holds that delivery's number
  -- until it has settled, then its negative.
  local seen = read_fields(job, 'delivery', 'queue', 'tied', 'state', 'lease')
  if seen[1] == delivery and seen[4] == 'active' and seen[5] == lease and not decided[id] then
    decided[id] = true
    last = last + 1
    accepted[last], negatives[last], mores[last], queues[last] = id, negative, more, queue_of(seen[2])
    all_ties[last] = read_ties(id, job, seen[3])
    if more ~= '' then
      all_plain = false
      ledgers[last] = read_fields(job, 'task', 'attempts', 'interruptions', 'pool', 'lane', 'error', 'failed_ms',
        'failed_by', 'failures', 'snoozes', 'deaths', 'events')
      if string.sub(more, 1, 6) == 'bound ' then
        local _, _, payload = read_packed(more)
        bounds[last] = cmsgpack.unpack(payload)
      end
    end
    return 'ok'
  elseif not seen[1] and not seen[2] then
    if not decided[id] then
      decided[id] = true
      vanished[#vanished + 1] = id
    end
    return 'gone'
  end
  if seen[1] == negative then
    return 'again'
  end
  if not (lates[id] or decided[id]) then
    local late_outcome, _, _, _, ran = 'succeeded', '', '', '', ''
    if more ~= '' then
      late_outcome, _, _, _, ran = read_packed(more)
    end
    ran = read_ran(ran)
    lates[id] = late_mark(id, delivery, lease, late_outcome, now, ran)
  end
  return 'fenced'
end
local at = 4
while at <= #ARGV do
  local delivery, more, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local negative = '-' .. delivery
  for i = at + 3, at + 2 + n do
    words[#words + 1] = decide(ARGV[i], delivery, negative, more)
  end
  at = at + 3 + n
end
-- An outcome that is not plain may schedule its job for later.
local first_due = not all_plain and tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])

-- note_error: keeps the error of a failed run, and moves the one before it into the ring.
local function note_error(job, ledger, payload)
  if payload == '' then
    return
  end
  local failures = number_of(ledger[9])
  if ledger[6] and ledger[6] ~= '' then
    redis.call('HSET', job, 'error:' .. (failures - 1) % 4, (ledger[7] or '0') .. ' ' .. (ledger[8] or '-') .. ' ' .. ledger[6])
  end
  redis.call('HSET', job, 'error', payload, 'failed_ms', digits(now), 'failed_by', lease, 'failures', failures + 1)
end

-- A long argument is one with a payload that may have to be left out.
local some_large = false
at = 4
while not all_plain and at <= #ARGV and not some_large do
  some_large = #ARGV[at + 1] > SMALL
  at = at + 3 + tonumber(ARGV[at + 2])
end
local leaves_out = some_large and is_full()

-- Write.
begin_writing()
for id, mark in pairs(lates) do
  redis.call('HSET', job_prefix .. id, unpack(mark))
end
-- leaves: ids that leave the processing list below.
local leaves = {}
for _, id in ipairs(vanished) do
  if redis.call('SREM', processing, id) == 1 then
    tell_followers(id)
  end
end
-- bind: puts the unique key, lane and limits that a job's task asks for on its record; or returns the job that holds that key.
local function bind(id, job, extras)
  local holder = extras.unique and live_holder(extras.unique[1], extras.unique[2])
  if holder and holder ~= id then
    return holder
  end
  local fields = { 'tied', '1', 'bound', '1' }
  constrain(id, extras, fields, true)
  redis.call('HSET', job, unpack(fields))
end
local now_text = digits(now)
local counts = {}
for i = 1, last do
  local id, more, settled, queue = accepted[i], mores[i], negatives[i], queues[i]
  local outcome, ms, payload, reason, ran = 'succeeded', result_ttl, '', '', ''
  if more ~= '' then
    outcome, ms, payload, reason, ran = read_packed(more)
    ms = tonumber(ms)
    if leaves_out and #payload > SMALL and outcome ~= 'bound' then
      if outcome == 'succeeded' then
        redis.call('HSET', job_prefix .. id, 'left_out', #payload)
      end
      payload = ''
    end
  end
  local ledger, ties = ledgers[i], all_ties[i]
  local job = job_prefix .. id
  -- A success without ties changes only its own record, so its id may leave the list afterwards.  A job that goes elsewhere
  -- leaves the list first, each by itself, so that an error with one (a foreign key in its way) costs no other its place.
  if outcome == 'succeeded' and ties == FREE then
    leaves[#leaves + 1] = id
  else
    redis.call('SREM', processing, id)
  end
  if ties.cancel then
    redis.call('SREM', named('cancel', lease), id)
    if outcome ~= 'succeeded' then
      outcome, ms = 'cancelled', ties.keep_ms
    end
  end
  if outcome ~= 'succeeded' then
    local ran_ms, trace = read_ran(ran)
    local started = ran_ms and start_of_run(string.sub(settled, 2), ran_ms, now)
    if trace ~= '' and (outcome == 'retry' or outcome == 'snoozed' or outcome == 'interrupted') then
      redis.call('HSET', job, 'trace', trace, 'tied', '1')
    end
    redis.call('HSET', job, event_of(ledger[12], now, outcome, string.sub(settled, 2), lease, reason, started))
  end
  if outcome == 'succeeded' then
    if payload == '' then
      end_job(id, job, queue, ties, paused, outcome, now_text, math.max(ms, window), 'delivery', settled)
    else
      end_job(id, job, queue, ties, paused, outcome, now_text, math.max(ms, window), 'delivery', settled, 'result',
        payload)
    end
  elseif outcome == 'failed' or outcome == 'cancelled' then
    note_error(job, ledger, payload)
    end_job(id, job, queue, ties, paused, outcome, now_text, math.max(ms, window), 'delivery', settled, 'reason', reason)
  elseif outcome == 'dead' then
    note_error(job, ledger, payload)
    end_job(id, job, queue, ties, paused, outcome, now_text, 'dead', 'delivery', settled, 'reason', reason,
      'attempts', number_of(ledger[2]) + ms)
  elseif outcome == 'retry' or outcome == 'snoozed' then
    note_error(job, ledger, payload)
    if ledger[4] and number_of(ledger[11]) < LAST_DEATHS then
      redis.call('HDEL', job, 'pool', 'past', 'charges')  -- it has ended its run: it is acquitted
      ledger[4] = nil
    end
    if outcome == 'retry' then
      redis.call('HSET', job, 'attempts', number_of(ledger[2]) + 1)
    else
      redis.call('HSET', job, 'snoozes', number_of(ledger[10]) + 1)
      redis.call('HDEL', job, 'expires_ms')  -- it has started
    end
    if ms > 0 then
      local due = now + ms
      redis.call('HSET', job, 'state', 'scheduled', 'due_ms', digits(due), 'set_ms', now_text, 'delivery', settled,
        'scheduled_for', outcome)
      redis.call('ZADD', single('scheduled'), due, id)
      if not first_due or due < first_due then
        first_due = due
        call_timer(due)
      end
    else
      redis.call('HSET', job, 'state', 'queued', 'delivery', settled)
      push_job('LPUSH', id, queue, ledger[5], ledger[4], paused)
    end
  elseif outcome == 'bound' then
    local extras = bounds[i]
    local holder = bind(id, job, extras)
    if holder then
      outcome = 'cancelled'
      end_job(id, job, queue, ties, paused, outcome, now_text, math.max(KEPT_MS, window), 'delivery', settled, 'reason',
        'job ' .. holder .. ' holds its unique key')
    else
      redis.call('HSET', job, 'state', 'queued', 'delivery', settled)
      push_job('LPUSH', id, queue, extras.lane or ledger[5], ledger[4], paused)
    end
  elseif outcome == 'parked' then
    redis.call('HSET', job, 'state', 'parked', 'delivery', settled)
    redis.call('LPUSH', named('parked', ledger[1] or ''), id)
    redis.call('SADD', single('parked'), ledger[1] or '')
  else
    -- 'interrupted' and 'unstarted'.  A suspect goes back to the suspects.
    redis.call('HSET', job, 'state', 'queued', 'delivery', settled)
    if outcome == 'interrupted' then
      redis.call('HSET', job, 'interruptions', number_of(ledger[3]) + 1)
    else
      redis.call('HSET', job, 'buffered', 'never')
    end
    push_job('RPUSH', id, queue, ledger[5], ledger[4], paused)
  end
  if ties.limits then
    free_permits(id, ties.limits)  -- whatever became of it
  end
  local by_queue = counts[outcome]
  if not by_queue then
    by_queue = {}
    counts[outcome] = by_queue
  end
  by_queue[queue] = (by_queue[queue] or 0) + 1
end
offer_freed(now, paused)
if #leaves > 0 then
  redis.call('SREM', processing, unpack(leaves))
end
if held and redis.call('EXISTS', processing) == 0 then
  redis.call('HDEL', named('instance', lease), 'held', 'tests')
  redis.call('ZREM', single('testing'), lease)
end
for outcome, by_queue in pairs(counts) do
  for queue, n in pairs(by_queue) do
    count(now, outcome, queue, n)
  end
end
write_ends()
return words
