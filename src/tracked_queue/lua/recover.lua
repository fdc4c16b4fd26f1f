-- recover: move the jobs of a lost instance back, a portion a call.  Called by transitions.recover.
--
-- KEYS[1]  tag
-- ARGV[1]  lease           text  whose jobs
-- ARGV[2]  n               int   of jobs in this portion, at most 250
-- ARGV[3]  max_recoveries  int   charges at which a suspect is dead
-- ARGV[4]  owner           text  who sweeps, for the lock of large lists
-- ARGV[5]  lock_ttl        int   ms
-- ARGV[6]  resend_window   int   ms
-- ARGV[7]  interval        int   ms of idle beats
-- Derived: instances, instance:<lease>, processing:<lease>, cancel:<lease>, contact, hold, recovery_lock, job:<id>,
--          queue:<q>, suspects:<q>, wake:<q>, lane:<lane>, lanes:<q>, laned, laned:<q>, waiting:<limit>, permits:<limit>,
--          unique:<key>, ended, dead, paused, stats:<minute>, queues
--
-- Returns a list; its first word:
--   'ok'     then remaining, label, and 5 values per job: id, task, fate, recoveries, charges; fate is 'requeued',
--            'unstarted' (it waited in the instance, or had begun a moment ago), 'interrupted', 'dead', 'cancelled' or 'gone'
--   'alive'  then ms until its deadline; nothing moved.  A deadline more than one TTL ahead is first cut to one.
--   'hold'   then ms: nobody may be called dead yet; nothing written, but the hold if it is this call that finds it
--   'busy'   another instance sweeps this list, and more than a portion is left; nothing written
--   'gone'   no such lease; nothing written
-- Keeps: the first write revokes, so that a late owner is fenced before its first job moves; each job moves once.
-- suspicion counts the deaths that a job was in, started or buffered; from the second on it is a suspect, of which an
-- instance takes one at a time. Only the suspect of a dead instance is charged.
-- What ran out around a hold counts as an interruption, but not for ever: a job that kills a lone pod, which comes back
-- late each time, would never be found; from the fourth time on it counts as a recovery.
-- A lease that was revoked on somebody's word (release) is recovered during a hold as well.
-- A job's permits are free with its move; its unique key stays its own until it ends.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include contact
-- include record
-- include ties
-- include lanes
-- include push
-- include waiters
-- include ended
-- include garbage
-- include stats
local lease, n, max_recoveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local owner, lock_ttl, window, interval = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local instances, instance, processing = single('instances'), named('instance', lease), named('processing', lease)
local now, paused = now_ms(), read_paused()

-- Read.
local deadline = tonumber(redis.call('ZSCORE', instances, lease))
if not deadline then
  return { 'gone' }
end
local about = redis.call('HMGET', instance, 'ttl_ms', 'cause', 'suspect', 'label')
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
  -- Its deadline passed while nobody could beat, or before everyone had the time to: not the jobs' doing.
  cause = deadline <= hold and 'outage' or 'lost'
end
local total = redis.call('LLEN', processing)
-- The lock names the lease and who sweeps it; each portion renews it, so that its TTL bounds only a dead sweeper.
local lock = redis.call('GET', single('recovery_lock'))
local held = lock and string.sub(lock, 1, #lease + 1) == lease .. ' '
if total > n and held and lock ~= lease .. ' ' .. owner then
  return { 'busy' }
end
local ids = redis.call('LRANGE', processing, 0, n - 1)
local records, all_ties = {}, {}
for i, id in ipairs(ids) do
  local job = named('job', id)
  records[i] = read_fields(job, 'state', 'lease', 'queue', 'task', 'tied', 'lane', 'buffered', 'interruptions',
    'recoveries', 'charges', 'suspicion')
  all_ties[i] = read_ties(id, job, records[i][5])
end

-- Write.
begin_writing()
redis.call('ZADD', instances, 0, lease)
redis.call('HSET', instance, 'cause', cause or 'lost')
if #ids > 0 then
  redis.call('LTRIM', processing, #ids, -1)
end
local reply = { 'ok', tostring(total - #ids), about[4] or '' }
local requeued = {}
local function back(id, queue, lane, suspicion)
  push_job('RPUSH', id, queue, lane, suspicion, paused)
  requeued[queue] = (requeued[queue] or 0) + 1
end
-- The list's left end is the newest; pushed to the right one by one, the oldest ends up as the next to be fetched.
for i, id in ipairs(ids) do
  local record, job, ties = records[i], named('job', id), all_ties[i]
  local state, queue = record[1], record[3] or 'default'
  if about[3] == id and redis.call('LLEN', named('suspects', queue)) > 0 then
    wake(queue, paused)  -- the place of this instance's suspect is free
  end
  local recoveries, charges = number_of(record[9]), number_of(record[10])
  local suspicion = number_of(record[11])
  local fate
  if not state then
    bury_garbage(id, '', now, 'an id in the list of a lost instance without a record')
    fate = 'gone'
  elseif state ~= 'active' or record[2] ~= lease then
    fate = 'gone'
  elseif ties.cancel then
    fate = 'cancelled'
    end_job(id, job, queue, ties, paused, 'cancelled', now, math.max(window, ties.keep_ms), 'reason',
      'cancelled; its instance was lost')
    count(now, 'cancelled', queue, 1)
  elseif record[7] ~= '1' and (cause == 'interrupted' or (cause == 'outage' and number_of(record[8]) < 3)) then
    fate = 'interrupted'
    redis.call('HSET', job, 'state', 'queued', 'interruptions', number_of(record[8]) + 1)
    back(id, queue, record[6], suspicion)
  elseif record[7] == '1' then
    -- It may have started since it was marked, so it comes under suspicion like its neighbours; else the poison
    -- itself, marked so once, would stay one death behind them, and they would be charged for it.
    fate = 'unstarted'
    if cause ~= 'outage' and cause ~= 'interrupted' then
      suspicion, recoveries = suspicion + 1, recoveries + 1
      redis.call('HSET', job, 'state', 'queued', 'buffered', 'never', 'suspicion', suspicion, 'recoveries', recoveries)
    else
      redis.call('HSET', job, 'state', 'queued', 'buffered', 'never', 'interruptions', number_of(record[8]) + 1)
    end
    back(id, queue, record[6], suspicion)
  else
    recoveries = recoveries + 1
    suspicion = suspicion + 1
    if about[3] == id then
      charges = charges + 1
    end
    if charges >= max_recoveries then
      fate = 'dead'
      redis.call('HSET', job, 'recoveries', recoveries, 'charges', charges)
      end_job(id, job, queue, ties, paused, 'dead', now, 'dead', 'reason',
        'its process died ' .. charges .. ' times while it ran as the only suspect')
      count(now, 'dead', queue, 1)
    else
      fate = 'requeued'
      redis.call('HSET', job, 'state', 'queued', 'recoveries', recoveries, 'suspicion', suspicion)
      if charges > 0 then
        redis.call('HSET', job, 'charges', charges)
      end
      back(id, queue, record[6], suspicion)
    end
  end
  if ties.limits and fate ~= 'gone' then
    free_permits(id, ties.limits, paused)
  end
  local at = #reply
  reply[at + 1], reply[at + 2], reply[at + 3] = id, record[4] or '', fate
  reply[at + 4], reply[at + 5] = tostring(recoveries), tostring(charges)
end
for queue, moved in pairs(requeued) do
  count(now, 'recovered', queue, moved)
end
if total > #ids then
  redis.call('SET', single('recovery_lock'), lease .. ' ' .. owner, 'PX', lock_ttl)
else
  redis.call('ZREM', instances, lease)
  redis.call('DEL', instance, processing, named('cancel', lease))
  if held then
    redis.call('DEL', single('recovery_lock'))
  end
end
return reply
