-- enqueue: record a batch of jobs, and make them takeable, schedule them, or have them wait for other jobs.
-- Called by transitions.enqueue.
--
-- KEYS[1]  tag
-- ARGV: 5 values per job, at most 250 jobs:
--   id       text   made by the producer, so that a resend is recognized
--   task     text
--   queue    text
--   args     bytes  positional arguments, '' for none
--   more     bytes  '' for a plain job, else packed: tracked, due, kwargs, options, extras:
--            tracked  '1', or '0': removed when fetched
--            due      '-' takeable now; '+ms' from now; 'ms' since 1970 on the server's clock
--            kwargs   named arguments, '' for none
--            options  what the job overrides of its task, '' for nothing; opaque here
--            extras   '' or MessagePack of a map with any of
--              expires     '+ms' from now or 'ms' since 1970: a job that has not started by then ends 'expired'
--              unique      key, until ('started', 'done' or 'window'), conflict ('existing' or 'replace'), ms of the window, and
--                          if there is such a bound the ms after its first enqueue by which a scheduled job is due
--              lane        where it waits if it has limits or turns
--              limits      list of name, kind, number, ms, bytes of the name without its key; see lua/include/lanes.lua
--              after       ids (at most 250) of the jobs that it comes after; an id of this batch that was not stored, because
--                          another job holds its unique key, stands for that job
--              more_after  int   how many more such jobs the script `follow` will name
--              wants       int   it wants the results of this many of `after`, from the first
--              tick        schedule, ms of the tick, mode: 'store'; 'coalesce' stores nothing while the job of the last tick
--                          waits in its queue; 'pass' stores nothing
--              on_failure  'fail', 'ignore' or 'fallback': what it means if one of the jobs before it ends without success
--              known       ms from now for which this id is known at least, even if the job's record goes before; for those
--                          enqueues of it that say `known` themselves
-- Derived: job:<id>, queue:<queue>, wake:<queue>, scheduled, queues, paused, unique:<key>, lane:<lane>, lanes:<queue>,
--          laned, laned:<queue>, followers:<id>, told:<id>, after:<id>, dependents, ended, timer, wake_timer,
--          schedule:<name>, stats:<minute>, ends:<queue>, known:<id>
--
-- Returns one value per job:
--   'created'   recorded
--   'exists'    a job of this id exists already, in whatever state, or its id is known; nothing written for this one
--   {'taken', task}   a job of this id exists already, but of that other task; nothing written for this one
--   {'held', id}      its unique key is held by that job, or this tick has been dealt with; nothing written for this one, except
--                     that its schedule has ticked, and `known`
--   {'replaced', id}  that job holds the key and has not begun: it got the arguments, options, due time, expiry, lane and limits
--                     of this one.  It keeps its own queue, and the jobs that it comes after; if it is in its queue already, it
--                     keeps its place there, and is due now
--   {'unknown', id}   it comes after that job, which has no record, or is untracked; nothing written for this one
-- With `known`, 'held' and 'replaced' are answered again to whoever enqueues the id again; nothing is written then.
-- Refuses: a full Redis (OOM), before the first write; a shard that was closed (see close.lua): the one word 'closed'.
-- A record has the fields kwargs and options only if one of them is not empty, or if it has extras or is due later; delivery '0'
-- marks such a record.  Only an untracked job has `tracked`, as '0'.  So a fetch reads five fields of a plain job.  `tied` marks a job with
-- extras, `bound` one that has those that its task asks for: a job that was enqueued without its task's code lacks them, and gets
-- them from the worker (see settle).
-- Keeps: a job whose id is known is never recorded twice, and what its unique key came to is not decided twice; a tick that is
-- not after its schedule's last one is not stored; jobs of one queue keep the order of the batch; a unique key counts as held only if that job's record exists, has not
-- ended, and names the key.
-- include keys
-- include number
-- include now_ms
-- include paused
-- include wake
-- include stats
-- include packed
-- include record
-- include states
-- include unique
-- include constrain
-- include timer
-- include lanes
-- include push
-- include ends
-- include expiry
-- include after
-- include ahead
-- A job ends after this long if its enqueue, which names more jobs than one call can take, stopped halfway.
local GATHER_MS = 3600000
-- How many of the jobs before it a job's record names, for people.
local MAX_AFTER = 50
local now, job_prefix = now_ms(), named('job', '')
-- Usually nothing is paused and no id is known; one call shows that.
local asked = { single('paused') }
for at = 1, #ARGV, 5 do
  asked[#asked + 1] = job_prefix .. ARGV[at]
end
local some_known = redis.call('EXISTS', unpack(asked)) > 0
local paused = some_known and read_paused() or {}
if paused.closed then
  return { 'closed' }
end
local words, fresh, seen, claimed, ticked, stand_ins = {}, {}, {}, {}, {}, {}
local task_of = {}  -- id -> task, of the jobs that this batch stores
local known = {}  -- id -> ms, what became of it, as the key `known` holds it
local windows = {}  -- unique keys that were set by a clock that was ahead -> for how many ms from now they are to last

-- Read.
local function moment(text)
  if text == '-' then
    return nil
  end
  return string.sub(text, 1, 1) == '+' and now + tonumber(string.sub(text, 2)) or tonumber(text)
end
-- is_named: whether this is a time that the caller named, and not a delay.  A record's `set_ms` says from when its delay counts,
-- if not from when the job was stored; it is '0' for a time that was named (see tend).
local function is_named(text)
  return string.find(text, '^%d') ~= nil
end
-- Who holds a unique key, in Redis or by an earlier job of this batch.
local function holder_of(key, until_what)
  if claimed[key] then
    return claimed[key], 'queued', false
  end
  return live_holder(key, until_what)
end
-- What an earlier enqueue of this id with `known` came to; nil if there was none.
local function word_of_known(id, task)
  local found = redis.call('GET', named('known', id))
  if not found then
    return nil
  end
  local before = cmsgpack.unpack(found)
  if before[1] ~= task then
    return { 'taken', before[1] }
  end
  stand_ins[id] = before[3]  -- for jobs of this batch that come after it
  return before[3] and { before[2], before[3] } or 'exists'
end
local some_later = false
for at = 1, #ARGV, 5 do
  local id, word, tracked_word = ARGV[at], 'created', '1'
  if seen[id] or some_known and redis.call('EXISTS', job_prefix .. id) == 1 then
    local task = task_of[id] or read_fields(job_prefix .. id, 'task')[1]
    word = (not task or task == ARGV[at + 1]) and 'exists' or { 'taken', task }
  elseif ARGV[at + 4] == '' then
    fresh[#fresh + 1] = at  -- a table for each plain job would cost more than the rest of this loop
  else
    local tracked, due, kwargs, options, extras = read_packed(ARGV[at + 4])
    local was_known = false
    tracked_word = tracked
    some_later = some_later or due ~= '-'
    local job = { at = at, tracked = tracked, due = due, kwargs = kwargs, options = options }
    if extras ~= '' then
      job.extras = cmsgpack.unpack(extras)
      local found = job.extras.known and word_of_known(id, ARGV[at + 1])
      was_known, word = found and true, found or word
      local tick = job.extras.tick
      if tick and word == 'created' then
        local name = tick[1]
        local last = ticked[name]
        if not last then
          local found = redis.call('HMGET', named('schedule', name), 'last_ms', 'last_id')
          last = { ms = number_of(found[1]), id = found[2] }
          if last.ms > now + AHEAD_MS then
            last.ms = 0  -- written by a clock that was ahead
          end
          last.waits = last.id and read_fields(job_prefix .. last.id, 'state')[1] == 'queued'
          ticked[name] = last
        end
        if tick[2] <= last.ms then
          word = { 'held', last.id or '' }
        else
          last.ms, last.changed = tick[2], true
          if tick[3] == 'pass' or paused['schedule:' .. name] or (tick[3] == 'coalesce' and last.waits) then
            word = { 'held', last.id or '' }
          end
        end
      end
      local unique, after = job.extras.unique, job.extras.after
      if unique and word == 'created' then
        local holder, state, has_begun = holder_of(unique[1], unique[2])
        if holder and holder ~= id then
          local waits = state == 'queued' or state == 'scheduled' or state == 'parked' or state == 'waiting'
          local replaces = unique[3] == 'replace' and waits and not has_begun and not claimed[unique[1]]
          word = { replaces and 'replaced' or 'held', holder }
          if unique[2] == 'window' and redis.call('PTTL', named('unique', unique[1])) > unique[4] then
            windows[unique[1]] = unique[4]
          end
          stand_ins[id] = holder
          if replaces then
            job.replaces, job.was = holder, state
          end
        else
          claimed[unique[1]] = id
        end
      end
      if after and word == 'created' then
        local missing
        job.back, missing = look_back(after, seen, stand_ins)
        if not job.back then
          word = { 'unknown', missing }
          if unique then
            claimed[unique[1]] = nil
          end
        end
      end
    end
    if word == 'created' and job.extras and job.extras.tick then
      local last = ticked[job.extras.tick[1]]
      last.id, last.waits = id, true
    end
    if word == 'created' or job.replaces then
      fresh[#fresh + 1] = job
    end
    if job.extras and job.extras.known and not was_known and (word == 'created' or stand_ins[id]) then
      known[id] = { job.extras.known, cmsgpack.pack({ ARGV[at + 1], stand_ins[id] and word[1] or false, stand_ins[id] }) }
    end
  end
  if word == 'created' then
    seen[id], task_of[id] = tracked_word, ARGV[at + 1]
  end
  words[#words + 1] = word
end
local first_due = some_later and tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])

-- Write.
local now_text = digits(now)
local pushes, order, timer_at, has_delays = {}, {}, nil, false
local function schedule(id, due_ms)
  has_delays = true
  redis.call('ZADD', single('scheduled'), due_ms, id)
  if not first_due or due_ms < first_due then
    first_due, timer_at = due_ms, due_ms
  end
end
local function note_queue(queue)
  local push = pushes[queue]
  if not push then
    push = { n = 0 }
    pushes[queue] = push
    order[#order + 1] = queue
  end
  return push
end
-- set_or_clear: sets the fields of a record that have a value here, and removes the others named.
local function set_or_clear(record, fields)
  for name, value in pairs(fields) do
    if value then
      redis.call('HSET', record, name, value)
    else
      redis.call('HDEL', record, name)
    end
  end
end
local function replace(job)
  local at, id, record, queue = job.at, job.replaces, job_prefix .. job.replaces, ARGV[job.at + 2]
  local extras = job.extras
  local due_ms, bound_ms = moment(job.due), extras.unique[5]
  if due_ms and bound_ms then
    due_ms = math.min(due_ms, number_of(redis.call('HGET', record, 'queued_ms')) + bound_ms)
  end
  if due_ms and due_ms <= now then
    due_ms = nil
  end
  redis.call('HSET', record, 'args', ARGV[at + 3], 'kwargs', job.kwargs, 'options', job.options)
  local found = read_fields(record, 'lane', 'queue', 'followed', 'wants', 'waiter')
  local stands, stood_in = found[1], queue_of(found[2])
  -- If it is in another queue than the new one names, it gets no lane here: the worker binds it to one of its own queue.
  local lane = stood_in == queue and extras.lane
  local laned = (job.was ~= 'queued' or stands) and (lane or not extras.lane)
  -- A job in its queue's own list gets no limits here, since those could hold up the list: the worker binds it to its lane.
  set_or_clear(record, {
    tracked = job.tracked == '0' and not (found[3] or found[4] or found[5]) and '0',
    expires_ms = extras.expires and digits(moment(extras.expires)) or false,
    lane = job.was == 'queued' and stands or lane or false,
    limits = laned and extras.limits and cmsgpack.pack(extras.limits) or false,
    bound = (laned or not extras.lane) and '1',
    checkpoint = false, progress = false,  -- of an earlier life, before a requeue
  })
  if job.was == 'waiting' then
    set_or_clear(record, { delay_ms = due_ms and digits(due_ms - now) or false })
  elseif job.was == 'scheduled' and due_ms then
    redis.call('HSET', record, 'due_ms', digits(due_ms), 'set_ms', is_named(job.due) and '0' or now_text)
    note_queue(queue)
    schedule(id, due_ms)
  elseif job.was == 'scheduled' then
    redis.call('ZREM', single('scheduled'), id)
    redis.call('HSET', record, 'state', 'queued')
    redis.call('HDEL', record, 'due_ms')
    push_job('LPUSH', id, stood_in, lane, nil, paused)
  end
end
local function record_extras(job, id, record, due_ms)
  local extras = job.extras
  local fields = { 'tied', '1' }
  local function note(name, value)
    fields[#fields + 1], fields[#fields + 2] = name, value
  end
  if extras.expires then
    note('expires_ms', digits(moment(extras.expires)))
  end
  constrain(id, extras, fields, false)
  if extras.lane or extras.unique then
    note('bound', '1')
  end
  local state = due_ms and 'scheduled' or 'queued'
  local reason
  if job.back then
    local back, more = job.back, extras.more_after or 0
    local waits = #back.open + (more > 0 and 1 or 0)
    note('on_failure', extras.on_failure)
    note('after', cmsgpack.pack({ unpack(back.ids, 1, MAX_AFTER) }))
    local comes_to = more > 0 and 'waiting' or meant(extras.on_failure, waits, back.failed)
    local of_dead = #back.revive > 0
    if comes_to == 'waiting' then
      state = 'waiting'
      redis.call('ZADD', single('dependents'), now, id)
      if due_ms then
        note('delay_ms', digits(due_ms - now))
      end
      if more > 0 then
        note('gathering', '1')
        note('named', #back.ids)
        redis.call('ZADD', single('scheduled'), now + GATHER_MS, '\2' .. id)
        has_delays = true
      end
    elseif comes_to == 'failed' then
      state, reason = 'failed', FAILED
    elseif comes_to == 'cancelled' then
      state, reason = 'cancelled', NOT_NEEDED
    end
    -- Only a job that waits, or may wait again, is notified of ends.
    if state == 'waiting' or state == 'failed' and of_dead then
      note('waits', waits)
      note('failed', back.failed)
      if of_dead then
        note('revives', #back.revive)
      end
    else
      back.open = {}
    end
    if not FINAL[state] or state == 'failed' and of_dead then
      link(id, back, extras.wants or 0)
    end
  end
  if FINAL[state] then
    note('finished_ms', now_text)
    note('reason', reason)
    note_end(ARGV[job.at + 2], now_text, state, id)
    if extras.unique and extras.unique[2] ~= 'window' then
      redis.call('DEL', named('unique', extras.unique[1]))
    end
  end
  note('state', state)
  redis.call('HSET', record, unpack(fields))
  if FINAL[state] then
    -- A later job of this batch may come after this one: a fetch notifies that job, and lets this record expire.
    redis.call('HSET', record, 'followed', '1', 'keep_ms', KEPT_MS)
    redis.call('RPUSH', single('ended'), id)
    timer_at = 0
  end
  return state
end
for _, job in ipairs(fresh) do
  local plain = type(job) == 'number'
  local at = plain and job or job.at
  local id, queue = ARGV[at], ARGV[at + 2]
  if plain then
    redis.call('HSET', job_prefix .. id, 'task', ARGV[at + 1], 'queue', queue, 'state', 'queued', 'queued_ms', now_text,
      'args', ARGV[at + 3])
    local push = note_queue(queue)
    push.n = push.n + 1
    push[#push + 1] = id
  elseif job.replaces then
    replace(job)
  else
    local tracked, kwargs, options = job.tracked, job.kwargs, job.options
    local due_ms = moment(job.due)
    local bound_ms = job.extras and job.extras.unique and job.extras.unique[5]
    if due_ms and bound_ms then
      due_ms = math.min(due_ms, now + bound_ms)
    end
    if due_ms and due_ms <= now then
      due_ms = nil
    end
    local record = job_prefix .. id
    local state = due_ms and 'scheduled' or 'queued'
    redis.call('HSET', record, 'task', ARGV[at + 1], 'queue', queue, 'state', state, 'queued_ms', now_text,
      'args', ARGV[at + 3])
    if kwargs ~= '' or options ~= '' or job.extras or due_ms then
      redis.call('HSET', record, 'delivery', '0', 'kwargs', kwargs, 'options', options)
    end
    if tracked == '0' then
      redis.call('HSET', record, 'tracked', '0')
    end
    if job.extras then
      state = record_extras(job, id, record, due_ms)
    end
    local push = note_queue(queue)
    if state == 'scheduled' then
      redis.call('HSET', record, 'due_ms', digits(due_ms))
      if is_named(job.due) then
        redis.call('HSET', record, 'set_ms', '0')
      end
      schedule(id, due_ms)
    elseif state == 'queued' then
      push.n = push.n + 1
      if job.extras and job.extras.lane then
        push_job('LPUSH', id, queue, job.extras.lane, nil, paused)
      else
        push[#push + 1] = id
      end
    end
  end
end
for id, what in pairs(known) do
  redis.call('SET', named('known', id), what[2], 'PX', math.max(1, what[1]))
end
for key, ms in pairs(windows) do
  redis.call('PEXPIRE', named('unique', key), ms)
end
for name, last in pairs(ticked) do
  if last.changed then
    redis.call('HSET', named('schedule', name), 'last_ms', digits(last.ms))
    if last.id then
      redis.call('HSET', named('schedule', name), 'last_id', last.id)
    end
  end
end
for _, queue in ipairs(order) do
  local push = pushes[queue]
  redis.call('SADD', single('queues'), queue)
  if #push > 0 then
    redis.call('LPUSH', named('queue', queue), unpack(push))
  end
  if push.n > 0 then
    count(now, 'enqueued', queue, push.n)
  end
  if #push > 0 then
    wake(queue, paused)
  end
end
-- The latest time from which a delay counts: if this is ever found far in the future, the clock went back (see heartbeat).
if has_delays and number_of(redis.call('HGET', single('timer'), 'counted')) < now then
  redis.call('HSET', single('timer'), 'counted', now_text)
end
if timer_at then
  call_timer(timer_at)
end
write_ends()
return words
