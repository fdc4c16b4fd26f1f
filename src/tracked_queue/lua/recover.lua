-- recover: move the jobs of a lost instance back, a portion a call, or some that are named.  Called by transitions.recover.
--
-- KEYS[1]  tag
-- ARGV[1]  lease           text  whose jobs
-- ARGV[2]  n               int   of jobs in this portion, at most 250
-- ARGV[3]  max_recoveries  int   charges at which a suspect is dead
-- ARGV[4]  owner           text  who sweeps, for the lock of large lists
-- ARGV[5]  lock_ttl        int   ms
-- ARGV[6]  resend_window   int   ms
-- ARGV[7]  interval        int   ms of idle beats
-- ARGV[8]  discard_by      text  who wants the named jobs to end as cancelled; '' to move them back
-- ARGV[9]  keep            int   ms for which a discarded job's record stays
-- ARGV[10:] ids            text  only these jobs of it, the first 250; without any: all, in portions
-- Derived: instances, instance:<lease>, processing:<lease>, cancel:<lease>, contact, hold, recovery_lock, job:<id>,
--          queue:<q>, suspected:<q>, suspecting, testing, wake:<q>, wake_suspects:<q>, lane:<lane>, lanes:<q>, laned,
--          laned:<q>, permits:<limit>, rate:<limit>, limits, waits:<limit>, open:<q>, opens, about:<limit>, timer, wake_timer,
--          unique:<key>, ended, followers:<id>, told:<id>, after:<id>, dead, ends:<q>, recoveries, paused,
--          stats:<minute>, queues
--
-- Returns a list; its first word:
--   'ok'     then remaining, label, and 5 values per job: id, task, fate, recoveries, charges; fate is 'requeued',
--            'unstarted' (it waited in the instance, or had begun a moment ago), 'interrupted', 'dead', 'cancelled' or 'gone'
--            If none of the named ones is its own: none, and nothing written.
--   'alive'  then ms until its deadline; nothing moved.  A deadline more than one TTL ahead is first cut to one.
--   'hold'   then ms: no instance may be called dead yet; nothing written, except the hold if it begins with this call
--   'busy'   another instance sweeps this list, and more than a portion is left; nothing written.  Not said of named ids.
--   'gone'   no such lease; nothing written
-- Keeps: the first write revokes, so that a late owner is fenced before its first job moves; each job moves once.
-- Blame (docs/explanation/blame.md).  Only a process that is known to have died (cause 'died'; or 'container', if others died
-- beside it) is evidence.  Of its jobs, those without a pool, and the suspects that had not outlived their gates, come under
-- suspicion: next time each runs in a group at most a quarter as large (after cause 'container': at first, just as large).  The
-- others are acquitted.  A job that was alone in the process is charged.  A lease that ran out, or whose instance was ended on
-- purpose, says nothing about its jobs: suspects remain suspects.  If it ran out around a hold, or was ended on purpose, that
-- counts as an interruption of its jobs, anything else as a recovery.  A lease that was revoked by release is recovered during a
-- hold as well.  Where not all that it has are named, none is acquitted, since who was there is judged together.  A job's permits
-- are freed when it moves; its unique key stays its own until it ends.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include contact
-- include record
-- include timer
-- include ties
-- include lanes
-- include limits
-- include push
-- include suspects
-- include waiters
-- include ends
-- include ended
-- include garbage
-- include stats
-- include history
-- How many of the last portions moved are kept, for people: ms, lease, label, cause, the lease's deadline (0: it was revoked by
-- release), when its process was last known to live (0 if that doesn't matter), number of jobs, how many of them are dead.
local RECOVERIES = 200
-- A process that died unseen lived for at most this long after its last beat, the longest time between beats while jobs run.
local BEAT_MS = 1000
local lease, n, max_recoveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local owner, lock_ttl, window, interval = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local instances, instance, processing = single('instances'), named('instance', lease), named('processing', lease)
local now, paused = now_ms(), read_paused()

-- Read.
local deadline = tonumber(redis.call('ZSCORE', instances, lease))
if not deadline then
  return { 'gone' }
end
local about = redis.call('HMGET', instance, 'ttl_ms', 'cause', 'if_lost', 'label', 'died_ms', 'beside', 'under', 'seen_ms')
local cause = about[2]
if deadline ~= 0 then
  local ttl_ms = number_of(about[1], 30000)
  if deadline > now + ttl_ms then
    begin_writing()
    redis.call('ZADD', instances, now + ttl_ms, lease)
    return { 'alive', digits(ttl_ms) }
  end
  if deadline > now then
    return { 'alive', digits(deadline - now) }
  end
  local found = read_hold(now, ttl_ms, interval)
  if found then
    begin_writing()
    note_contact(now, found)
    return { 'hold', digits(found - now) }
  end
  local hold = number_of(redis.call('GET', single('hold')))
  if hold > now then
    return { 'hold', digits(hold - now) }
  end
  -- Another instance took its place, so it must be gone (see release); or its deadline passed while nobody could beat, or before
  -- everyone had had time to, which is not the fault of its jobs.
  cause = about[3] or deadline <= hold and 'outage' or 'lost'
end
local total = redis.call('SCARD', processing)
-- The lock says when it was taken, for which lease, and by whom; each portion renews it, so its TTL only limits how long
-- a dead sweeper holds it.  A lock whose time is in the future was taken by a clock that was ahead.
local lock = redis.call('GET', single('recovery_lock')) or ''
local taken_ms, whose, sweeper = string.match(lock, '^(%d+) (%S+) (.*)$')
local held = whose == lease
local is_fresh = held and tonumber(taken_ms) <= now and tonumber(taken_ms) > now - lock_ttl
local discard_by, keep, is_named = ARGV[8] or '', number_of(ARGV[9]), #ARGV > 9
if total > n and is_fresh and sweeper ~= owner and not is_named then
  return { 'busy' }
end
local ids, known, cursor = {}, {}, '0'
for at = 10, math.min(#ARGV, 259) do
  if not known[ARGV[at]] and redis.call('SISMEMBER', processing, ARGV[at]) == 1 then
    ids[#ids + 1], known[ARGV[at]] = ARGV[at], true
  end
end
while not is_named do
  local page = redis.call('SSCAN', processing, cursor, 'COUNT', n)
  cursor = page[1]
  for _, id in ipairs(page[2]) do
    if #ids < n and not known[id] then
      ids[#ids + 1], known[id] = id, true
    end
  end
  if cursor == '0' or #ids == n then
    break
  end
end
if is_named and #ids == 0 then
  return { 'ok', tostring(total), about[4] or '' }
end
-- died: the process died; died_ms: when it was last known to live.
local died = cause == 'died' or cause == 'container'
local died_ms = number_of(about[5], math.min(now, number_of(about[8], now) + BEAT_MS))
-- The newest first: pushed to the heads of their queues one by one, the oldest ends up as the next to be fetched.
local records = {}
for i, id in ipairs(ids) do
  local record = read_fields(named('job', id), 'state', 'lease', 'queue', 'task', 'tied', 'lane', 'buffered', 'interruptions',
    'recoveries', 'delivery', 'pool', 'past', 'charges', 'deaths', 'events')
  record.id, record.delivery = id, number_of(record[10])
  record.pool, record.past = record[11], number_of(record[12])
  record.charges, record.deaths = number_of(record[13]), number_of(record[14])
  records[i] = record
end
table.sort(records, function(a, b)
  if a.delivery ~= b.delivery then
    return a.delivery > b.delivery
  end
  return a.id > b.id
end)
-- ran: for how many ms each had run, at most.  under: how many are under suspicion; in a list longer than a portion all count.
local under = 0
for _, record in ipairs(records) do
  record.ties = read_ties(record.id, named('job', record.id), record[5])
  if record[1] == 'active' and record[2] == lease and died then
    record.ran = math.max(0, died_ms - number_of(record[10], died_ms))
    record.gate = record.pool and gate_of(record.past, record.deaths) or ENDLESS
    if record.ran <= record.gate then
      under = under + 1
    end
  end
end
local company, is_whole = number_of(about[7]), not about[7] and total == #ids
-- If no job is under suspicion, all are: a culprit may take longer to kill in other company.
local all_under = is_whole and under == 0
if company == 0 then
  company = is_whole and under > 0 and under or total
end
local was_alone = total == 1 and number_of(about[6]) == 0 and company == 1

-- Write.
begin_writing()
redis.call('ZADD', instances, 0, lease)
redis.call('HSET', instance, 'cause', cause or 'lost', 'under', company)
if #ids > 0 then
  redis.call('SREM', processing, unpack(ids))
end
local reply = { 'ok', tostring(total - #ids), about[4] or '' }
local requeued, deaths = {}, 0
local function back(id, queue, lane, pool, since)
  push_job('RPUSH', id, queue, lane, pool, paused, since)
  requeued[queue] = (requeued[queue] or 0) + 1
end
redis.call('ZREM', single('testing'), lease)
if redis.call('HGET', single('timer'), 'lease') == lease then
  call_timer(-1)
end
-- accuse: writes to the record of a job under suspicion what this death means for it; returns whether that makes the job dead.
local function accuse(record, job)
  record.deaths = record.deaths + 1
  record.past = math.max(record.past, record.ran)
  -- If all processes of a program died at once, somebody probably ended them: their jobs stay together at first.
  local cut = (cause == 'died' or record.pool) and 4 or 1
  local pool = math.min(number_of(record.pool, company), math.ceil(company / cut))
  if record.deaths >= LAST_DEATHS then
    pool = 1
  end
  if was_alone and cause == 'died' and record.ran <= record.gate or record.deaths > LAST_DEATHS and company == 1 then
    record.charges = record.charges + 1
  end
  record.pool = digits(math.max(1, pool))
  redis.call('HSET', job, 'pool', record.pool, 'past', digits(record.past), 'deaths', record.deaths)
  if record.charges > 0 then
    redis.call('HSET', job, 'charges', record.charges)
  end
  return record.charges >= max_recoveries
end
for i, record in ipairs(records) do
  local id, ties = record.id, record.ties
  local job = named('job', id)
  local state, queue = record[1], queue_of(record[3])
  local recoveries = number_of(record[9])
  local fate
  if not state then
    bury_garbage(id, '', now, 'an id in the list of a lost instance without a record')
    fate = 'gone'
  elseif state ~= 'active' or record[2] ~= lease then
    fate = 'gone'
  elseif ties.cancel or discard_by ~= '' and is_named then
    fate = 'cancelled'
    end_job(id, job, queue, ties, paused, 'cancelled', now, math.max(window, ties.keep_ms or keep), 'reason',
      ties.cancel and 'cancelled; its instance was lost' or 'discarded by ' .. discard_by .. '; its instance was lost')
    count(now, 'cancelled', queue, 1)
  else
    -- A job that waited here may have started meanwhile, so it comes under suspicion like its neighbours.
    local waited, blame = record[7] == '1', ''
    fate = waited and 'unstarted' or 'requeued'
    if cause == 'outage' or cause == 'interrupted' then
      fate = waited and 'unstarted' or 'interrupted'
      redis.call('HSET', job, 'state', 'queued', 'interruptions', number_of(record[8]) + 1)
    else
      recoveries = recoveries + 1
      redis.call('HSET', job, 'state', 'queued', 'recoveries', recoveries)
    end
    if waited then
      redis.call('HSET', job, 'buffered', 'never')
    end
    if died and (all_under or record.ran <= record.gate) then
      local charges = record.charges
      local is_dead = accuse(record, job)
      blame = record.charges > charges and 'charged' or 'suspect'
      if is_dead then
        fate, deaths = 'dead', deaths + 1
        end_job(id, job, queue, ties, paused, 'dead', now, 'dead', 'reason',
          'its process died ' .. record.charges .. ' times while it was the only job there')
        count(now, 'dead', queue, 1)
      else
        back(id, queue, record[6], record.pool, now + i + CONFIRM_MS * record.charges)
      end
    elseif died and record.pool and (is_whole or not is_named) then
      redis.call('HDEL', job, 'pool', 'past', 'charges')
      blame = 'acquitted'
      back(id, queue, record[6], nil)
    else
      back(id, queue, record[6], record.pool)
    end
    redis.call('HSET', job, event_of(record[15], now, 'recovered', digits(record.delivery), lease,
      (cause or 'lost') .. ' ' .. fate .. ' ' .. blame))
  end
  if ties.limits and fate ~= 'gone' then
    free_permits(id, ties.limits)
  end
  local at = #reply
  reply[at + 1], reply[at + 2], reply[at + 3] = id, record[4] or '', fate
  reply[at + 4], reply[at + 5] = tostring(recoveries), tostring(record.charges)
end
offer_freed(now, paused)
write_ends()
for queue, moved in pairs(requeued) do
  count(now, 'recovered', queue, moved)
end
if #ids > 0 then
  redis.call('LPUSH', single('recoveries'), cmsgpack.pack({ now, lease, about[4] or '', cause or 'lost', deadline,
    died and died_ms or 0, #ids, deaths }))
  redis.call('LTRIM', single('recoveries'), 0, RECOVERIES - 1)
end
if total > #ids and is_named then
  return reply
end
if total > #ids then
  redis.call('SET', single('recovery_lock'), digits(now) .. ' ' .. lease .. ' ' .. owner, 'PX', lock_ttl)
else
  redis.call('ZREM', instances, lease)
  redis.call('DEL', instance, processing, named('cancel', lease))
  if held then
    redis.call('DEL', single('recovery_lock'))
  end
end
return reply
