-- cancel: end jobs that have not started, and ask for the end of those that run.  Called by transitions.cancel.
--
-- KEYS[1]  tag
-- ARGV[1]  keep  int  ms for which an ended record stays
-- ARGV[2]  by    text who asks for it
-- ARGV[3..] id   text at most 70
-- Derived: job:<id>, scheduled, suspected:<q>, suspecting, dependents, dead, parked, parked:<task>, cancel:<lease>, unique:<key>,
--          ends:<q>, ended, timer, wake_timer, paused, stats:<minute>
--
-- Returns one word per job:
--   'cancelled'  it was scheduled, waiting, queued or parked; it will not run
--   'requested'  it is active; its instance learns of this with its next beat, within a second
--   'ended'      it had ended; nothing written
--   'gone'       no record; nothing written
-- A queued id, or one in a long list of parked ones, stays in its list (long lists are not searched) until a fetch or
-- unpark drops it; so its record gets its expiry only then.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include record
-- include states
-- include suspects
-- include timer
-- include ties
-- include waiters
-- include ends
-- include ended
-- include stats
-- include history
local SEARCHED = 1000
local keep, by, now, paused = tonumber(ARGV[1]), ARGV[2], now_ms(), read_paused()
local REASON = 'cancelled before it started'
local words, records, seen = {}, {}, {}
for at = 3, #ARGV do
  local id = ARGV[at]
  local found = read_fields(named('job', id), 'state', 'lease', 'queue', 'tied', 'task', 'pool', 'events', 'delivery')
  local state = found[1]
  if not state then
    words[#words + 1] = 'gone'
  elseif seen[id] or FINAL[state] then
    words[#words + 1] = 'ended'
  else
    seen[id] = true
    words[#words + 1] = state == 'active' and 'requested' or 'cancelled'
    records[#records + 1] = { id = id, job = named('job', id), state = state, lease = found[2], queue = queue_of(found[3]),
      ties = read_ties(id, named('job', id), found[4]), task = found[5], pool = found[6], events = found[7],
      delivery = found[8] }
  end
end
begin_writing()
for _, record in ipairs(records) do
  local is_active = record.state == 'active'
  if not record.ties.cancel then  -- the first to ask is in the history
    redis.call('HSET', record.job,
      event_of(record.events, now, 'cancel', is_active and record.delivery or '', record.lease or '', by))
  end
  if is_active then
    redis.call('HSET', record.job, 'tied', '1', 'cancel', '1', 'keep_ms', keep)
    redis.call('SADD', named('cancel', record.lease or ''), record.id)
  else
    local parked = record.state == 'parked' and named('parked', record.task or '')
    if parked and redis.call('LLEN', parked) <= SEARCHED then
      redis.call('LREM', parked, -1, record.id)
      if redis.call('LLEN', parked) == 0 then
        redis.call('SREM', single('parked'), record.task or '')
      end
      end_job(record.id, record.job, record.queue, record.ties, paused, 'cancelled', now, keep, 'reason', REASON)
    elseif record.state == 'scheduled' or record.state == 'waiting' or record.state == 'queued' and record.pool then
      if record.state == 'queued' then
        unsuspend(record.id, record.queue)
      else
        redis.call('ZREM', single(record.state == 'waiting' and 'dependents' or 'scheduled'), record.id)
      end
      end_job(record.id, record.job, record.queue, record.ties, paused, 'cancelled', now, keep, 'reason', REASON)
    else
      end_job(record.id, record.job, record.queue, record.ties, paused, 'cancelled', now, 'listed', 'keep_ms', keep,
        'listed', '1', 'reason', REASON)
    end
    count(now, 'cancelled', record.queue, 1)
  end
end
write_ends()
return words
