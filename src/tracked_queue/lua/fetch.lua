-- fetch: hand jobs over to an instance: from their queues into its processing list.  Called by transitions.fetch.
--
-- KEYS[1]  tag
-- ARGV[1]  lease      text
-- ARGV[2]  number     int  of this fetch; the same one again returns the same jobs (a resend)
-- ARGV[3]  start      int  jobs that will start now, at most 250
-- ARGV[4]  buffer     int  jobs beyond them that will wait in the instance; start + buffer <= 250
-- ARGV[5]  max_bytes  int  of arguments in one reply; the first job always fits
-- ARGV[6]  suspects   '1', or '0' to take no suspect: the process runs one that is in another shard
-- then 2 values per queue, in priority order:
--   queue  text
--   most   int  jobs of this queue that may be taken, '' for no limit of its own
-- Derived: instances, instance:<lease>, processing:<lease>, scheduled, queue:<q>, suspects:<q>, lanes:<q>, lane:<lane>,
--          laned, laned:<q>, waiting:<limit>, permits:<limit>, rate:<limit>, limits, unique:<key>, ended,
--          followers:<id>, told:<id>, after:<id>, dependents, wake:<q>, job:<id>, paused, parked, parked:<task>, dead, stats:<minute>, queues
--
-- Returns a list; its first word:
--   'ok'     then more, next_due, buried, and 5 values per job: id, delivery ('0' for an untracked one), buffered
--            ('1', '0', or 's' for one that starts as suspect), queue, and the record as a list: state, delivery before
--            this one, task, args; for a job
--            that was delivered before, or is no plain one, also kwargs, options, and unless it is untracked: tracked,
--            attempts, interruptions, recoveries, buffered before, checkpoint, bound (nil where there is none)
--            more      '1' if something is left that this instance could have taken with more slots; 'n' if that has to start at
--                      once, so that it would never be taken by an instance whose buffer never runs empty; 's' if nothing is
--                      but suspects that this call was not to take
--            next_due  ms until the next scheduled job is due, -1 if there is none
--            buried    ids without a record that were set aside as dead
--   'stale'  a later number was used; nothing taken
--   'quiet'  the instance was asked to fetch nothing; nothing taken
--   'late'   the lease is past its deadline; a beat must extend it first; nothing taken
--   'lost'   the lease is revoked or gone; nothing taken
-- A refused or repeated fetch puts the markers of its queues back: a BZPOPMIN before it may have popped one.
-- Keeps: an id is in one place; a delivery number grows with every delivery; an instance has at most one suspect; no limit
-- has more permits out than its number, no rate more starts in any window of its time.
-- Order: what is due and what follows on ended jobs is made takeable first (see lua/include/tend.lua), a bounded number a call,
-- so that it has its place among the others.  Then a suspect if this instance has none and a slot for it, then each queue: its
-- list's right end and its lanes in turns.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include waiters
-- include garbage
-- include record
-- include states
-- include ties
-- include lanes
-- include push
-- include ended
-- include stats
-- include unique
-- include expiry
-- include after
-- include followers
-- include tend
-- So many are looked at in a call, and so many more read at once where what was read first has to be dropped.
local LOOK, FURTHER = 300, 50
local REWRITTEN = 1000
-- Above so many arguments queues are asked for one by one: Lua can't hand over more than 8,000 values at once.
local ASKED = 6000
-- Beyond its time, so that what counts is this clock and not when the server expires a key (a test's clock may stand still).
local RATE_KEPT_MS = 60000
local lease, number = ARGV[1], tonumber(ARGV[2])
local start, buffer, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local instance, processing = named('instance', lease), named('processing', lease)
local now = now_ms()
-- What is mostly not there is asked for in one call: pauses, ended jobs with followers, suspects and lanes.
local some_special = #ARGV > ASKED
if not some_special then
  local special = { single('paused'), single('ended') }
  for at = 7, #ARGV, 2 do
    special[#special + 1], special[#special + 2] = named('suspects', ARGV[at]), named('lanes', ARGV[at])
  end
  some_special = redis.call('EXISTS', unpack(special)) > 0
end
local paused = some_special and read_paused() or {}

local function put_markers_back()
  begin_writing()
  for at = 7, #ARGV, 2 do
    local queue = ARGV[at]
    if redis.call('LLEN', named('queue', queue)) + redis.call('LLEN', named('suspects', queue))
      + redis.call('ZCARD', named('lanes', queue)) > 0 then
      wake(queue, paused)
    end
  end
end
local function refused(word)
  put_markers_back()
  return { word }
end
local job_prefix = named('job', '')
-- A plain job that was never delivered has no delivery number, and none of the further fields but `tracked` (see enqueue).
-- Extras are for the decision here: expires_ms, unique, until, limits.
local extras, untracked = {}, {}
local function read(id, job)
  local record = read_fields(job, 'state', 'delivery', 'task', 'args', 'tracked')
  local tracked = record[5]
  record[5] = nil
  if tracked == '0' then
    untracked[id] = true
  end
  if record[2] then
    local more = read_fields(job, 'kwargs', 'options', 'attempts', 'interruptions', 'recoveries', 'buffered', 'tied')
    record[5], record[6], record[7] = more[1], more[2], tracked
    for i = 3, 7 do
      record[5 + i] = more[i]
    end
    if record[12] then
      local found = read_fields(job, 'expires_ms', 'unique', 'until', 'limits', 'checkpoint', 'bound')
      record[12], record[13] = found[5], found[6]
      extras[id] = found
    end
  end
  return record
end
local function size_of(record)
  return (record[4] and #record[4] or 0) + (record[5] and #record[5] or 0) + (record[6] and #record[6] or 0)
    + (record[12] and #record[12] or 0)
end

-- Read.
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if not deadline or deadline == 0 then
  return refused('lost')
end
local own = redis.call('HMGET', instance, 'fetch', 'fetched', 'quiet', 'suspect')
local last = tonumber(own[1] or '0')
if number < last then
  return refused('stale')
end
-- Mostly the first that is scheduled tells both: that nothing is due, and when something will be.
local first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
local some_due = first_due and first_due <= now
local next_due_ms = first_due and digits(math.max(0, first_due - now)) or '-1'
if number == last then
  -- No fetch of this lease came later, so what is active under it and was taken then is that very delivery.
  put_markers_back()
  local reply = { 'ok', '1', next_due_ms, {} }
  for _, id in ipairs(own[2] and cmsgpack.unpack(own[2]) or {}) do
    local record = read(id, job_prefix .. id)
    local about = read_fields(job_prefix .. id, 'lease', 'queue')
    if record[1] == 'active' and about[1] == lease then
      local n = #reply
      reply[n + 1], reply[n + 2] = id, record[2]
      reply[n + 3] = id == own[4] and 's' or (record[11] == '1' and '1' or '0')
      reply[n + 4], reply[n + 5] = about[2], record
    end
  end
  return reply
end
if own[3] == '1' then
  return refused('quiet')
end
if deadline <= now then
  return refused('late')
end

-- What is due, and what follows on what has ended, comes first: it has its place among what can be taken.
local tended_left = false
if some_due or some_special and redis.call('EXISTS', single('ended')) == 1 then
  -- What this makes takeable in the queues of this call it may take itself: others are woken below, for what is left; but who
  -- takes no suspect wakes them for it.
  for at = 7, #ARGV, 2 do
    woken[ARGV[at]] = not own[4] and ARGV[6] == '1'
  end
  tended_left = tend(now, paused, some_due)
  for at = 7, #ARGV, 2 do
    woken[ARGV[at]] = nil
  end
  some_special = true
  first_due = tonumber((redis.call('ZRANGEBYSCORE', single('scheduled'), '(' .. digits(now), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1))[2])
  next_due_ms = first_due and digits(first_due - now) or '-1'
end

-- taken: parallel lists, since a table for each job costs more than the calls for it.
local ids, jobs, records, queues, buffered = {}, {}, {}, {}, {}
local dropped, expired, set_aside, garbage, cuts, visited, left = {}, {}, {}, {}, {}, {}, {}
local bytes, started, taken, looked, new_suspect = 0, 0, 0, 0, nil
local suspect, denied, must_start = own[4] or ARGV[6] == '0', false, false
local seen, strays = {}, 0
-- Permits of concurrency limits out, and starts of rates, as they will be after this call.
local used, rates, full_at = {}, {}, {}
-- The ms from which a rate has room, or nil if it has now: its last starts are in a list, the newest first.
local function opens_at(name, rate)
  if rate.taken >= rate.most then
    return now + rate.ms
  end
  local nth = number_of(redis.call('LINDEX', named('rate', name), rate.most - 1 - rate.taken))
  if nth > now then  -- of a clock that was ahead
    nth, rate.ahead = now, true
  end
  return nth > 0 and nth + rate.ms > now and nth + rate.ms or nil
end
-- The name of a limit that keeps work from starting now, or nil.
local function blocked_by(limits)
  for _, limit in ipairs(limits) do
    local name = limit[1]
    if limit[2] == 'concurrency' and used[name] >= limit[3] or rates[name] and opens_at(name, rates[name]) then
      return name
    end
  end
end
-- Every limit of whatever is looked at is noted: its lane may have been woken for a place that it does not take, because its
-- head is cancelled, say, or another limit holds it; then the next lane has to be woken (see full_at below).
-- The number that counts is that of the code that started last (see register): a deploy changes it for waiting jobs too.
local numbers = {}
local function note_limits(limits)
  for _, limit in ipairs(limits) do
    local base = limit[5] and string.sub(limit[1], 1, limit[5]) or limit[1]
    if numbers[base] == nil then
      numbers[base] = number_of(redis.call('HGET', single('limits'), base), false)
    end
    local name = limit[1]
    limit[3] = math.min(numbers[base] or limit[3], MOST_OF_LIMIT)
    if limit[2] == 'concurrency' then
      used[name] = used[name] or redis.call('SCARD', named('permits', name))
      full_at[name] = limit[3]
    else
      rates[name] = rates[name] or { most = limit[3], ms = limit[4], taken = 0 }
    end
  end
end
local function count_permits(limits)
  for _, limit in ipairs(limits) do
    local name = limit[1]
    if limit[2] == 'concurrency' then
      used[name] = used[name] + 1
    else
      rates[name].taken = rates[name].taken + 1
    end
  end
end
-- look: decides on one id: true if it leaves its list with this call; else also what blocks it, if a limit does. What is
-- looked at is bounded, not only what is taken: dropped and set-aside jobs cost time as well.
local some_paused = next(paused) ~= nil
-- An untracked job is gone once it is handed over, so it is asked here whether the instance knows its task; others come back.
local known
local function knows(task)
  if known == nil then
    known = redis.call('HGET', instance, 'tasks') or false
  end
  return not known or string.find('\n' .. known .. '\n', '\n' .. task .. '\n', 1, true) ~= nil
end
local function look(id, queue, may_buffer, room)
  if looked >= LOOK or (looked > 0 and bytes > max_bytes) then
    return false
  end
  looked = looked + 1
  local job = job_prefix .. id
  local record = read(id, job)
  local size, extra = size_of(record), extras[id]
  local limits = extra and read_limits(extra[4])
  if extra then
    extra[4] = limits
  end
  if limits then
    note_limits(limits)
  end
  if not record[1] or not record[3] or not (OPEN[record[1]] or FINAL[record[1]]) then
    garbage[#garbage + 1] = { id, queue }
  elseif record[1] == 'cancelled' then
    dropped[#dropped + 1] = id
  elseif record[1] ~= 'queued' or seen[id] then
    strays = strays + 1  -- it stands elsewhere, or twice here; this entry is one too many
  elseif extra and extra[1] and number_of(extra[1], now + 1) <= now and not record[8] and not record[9] and not record[10] then
    expired[#expired + 1] = { id, queue, read_ties(id, job, '1') }
    seen[id] = true
  elseif some_paused and paused['task:' .. record[3]] or untracked[id] and not knows(record[3]) then
    set_aside[#set_aside + 1] = { id, record[3] }
    seen[id] = true
  else
    local waits = started >= start
    if room <= 0 or taken >= start + buffer or (taken > 0 and bytes + size > max_bytes) then
      return false
    elseif waits and (not may_buffer or record[11] == 'never') then
      must_start = true
      return false
    end
    if limits then
      local full = blocked_by(limits)
      if full then
        return false, full
      end
      count_permits(limits)
    end
    if extra and extra[3] == 'started' then
      extra.frees = redis.call('GET', named('unique', extra[2])) == id
    end
    taken = taken + 1
    seen[id] = true
    if not waits then
      started = started + 1
    end
    ids[taken], jobs[taken], records[taken], queues[taken], buffered[taken] = id, job, record, queue, waits and '1' or '0'
  end
  bytes = bytes + size
  return true
end
-- take_list: how many ids leave the list with this call, and whether some stay.
local function take_list(queue, list, room)
  local cut, before, portion = 0, taken, room
  while taken - before < room do
    local heads = redis.call('LRANGE', list, -cut - portion, -cut - 1)
    for i = #heads, 1, -1 do
      if not look(heads[i], queue, true, room - (taken - before)) then
        return cut, true
      end
      cut = cut + 1
    end
    -- Mostly what was read tells whether that was all.
    if #heads < portion then
      return cut, false
    end
    portion = FURTHER  -- some of it was dropped
  end
  return cut, redis.call('LLEN', list) > cut
end
-- Lanes take turns: one job of each, and again, while there is room.
local function take_lanes(queue, room)
  if room <= 0 then
    return
  end
  local lanes = redis.call('ZRANGE', named('lanes', queue), 0, room + 9)
  local open, before = {}, taken
  local share = math.ceil(room / #lanes)
  for i, lane in ipairs(lanes) do
    local list = named('lane', lane)
    local heads = redis.call('LRANGE', list, -share, -1)
    open[i] = { lane = lane, list = list, queue = queue, heads = heads, at = #heads, cut = 0,
      total = redis.call('LLEN', list) }
    visited[#visited + 1] = open[i]
  end
  local moved = true
  while moved do
    moved = false
    for _, lane in ipairs(open) do
      if not lane.over then
        local gone, full = false, nil
        if lane.at == 0 and lane.cut < lane.total and taken - before < room then
          lane.heads = redis.call('LRANGE', lane.list, -lane.cut - FURTHER, -lane.cut - 1)
          lane.at = #lane.heads
        end
        if lane.at > 0 then
          gone, full = look(lane.heads[lane.at], queue, true, room - (taken - before))
        end
        if gone then
          lane.at, lane.cut, moved = lane.at - 1, lane.cut + 1, true
        elseif full then
          lane.over, lane.full = true, full
        elseif lane.at > 0 then
          return
        else
          lane.over = true
        end
      end
    end
  end
end
for at = 7, #ARGV, 2 do
  local queue, most = ARGV[at], tonumber(ARGV[at + 1])
  if not paused['queue:' .. queue] then
    local before = taken
    local suspects = some_special and named('suspects', queue)
    local waiting = suspects and redis.call('LLEN', suspects) or 0
    if waiting > 0 and not own[4] and ARGV[6] == '0' then
      denied = true
    end
    if waiting > 0 and not suspect then
      if started < start and most ~= 0 then
        local id = redis.call('LINDEX', suspects, -1)
        local gone, full = look(id, queue, false, 1)
        if gone then
          cuts[#cuts + 1] = { suspects, 1 }
          waiting = waiting - 1
          if taken > before then
            suspect, new_suspect = id, id
          end
        elseif full then
          waiting = 0  -- it is held up by a limit: no reason to ask again before the next round
        end
      elseif most ~= 0 then
        must_start = true
      end
      if waiting > 0 then
        left[queue] = true
      end
    end
    local room = start + buffer - taken
    if most then
      room = math.min(room, most - (taken - before))
    end
    local list = named('queue', queue)
    local turns = some_special and redis.call('EXISTS', named('lanes', queue)) == 1
    local cut, stay = 0, false
    if turns and room > 0 then
      -- Neither side of a queue starves the other: each fetch begins with the other one, for half of the room.
      local half = redis.call('EXISTS', list) == 1 and math.ceil(room / 2) or room
      if number % 2 == 0 then
        take_lanes(queue, half)
        cut = take_list(queue, list, room - (taken - before))
      else
        cut = take_list(queue, list, half)
        take_lanes(queue, room - (taken - before))
      end
    else
      cut, stay = take_list(queue, list, room)
    end
    if cut > 0 then
      cuts[#cuts + 1] = { list, cut }
    end
    if stay or turns then
      left[queue] = (most and taken - before >= most) and 'others' or true
    end
  end
end

-- Write.
local now_text = digits(now)
for _, cut in ipairs(cuts) do
  redis.call('LTRIM', cut[1], 0, -cut[2] - 1)
end
if #cuts == 0 then
  begin_writing()  -- a cut does the same
end
for _, id in ipairs(dropped) do
  -- Cancelled while it was queued: its end was recorded then; from now on it may expire.
  unlist(job_prefix .. id)
end
for _, item in ipairs(expired) do
  end_job(item[1], job_prefix .. item[1], item[2], item[3], paused, 'expired', now_text, KEPT_MS, 'reason',
    'it had not started when its time to start was over')
  count(now, 'expired', item[2], 1)
end
local buried = {}
for _, item in ipairs(garbage) do
  buried[#buried + 1] = bury_garbage(item[1], item[2], now, 'an id in the queue without a record that can be read')
end
for _, item in ipairs(set_aside) do
  redis.call('HSET', job_prefix .. item[1], 'state', 'parked')
  redis.call('LPUSH', named('parked', item[2]), item[1])
  redis.call('SADD', single('parked'), item[2])
end
local reply, moved, filled, dropped_of = { 'ok', '0', next_due_ms, buried }, {}, 4, {}
for i = 1, taken do
  local id, job, record, queue, delivery = ids[i], jobs[i], records[i], queues[i], now_text
  local extra = extras[id]
  if extra then
    if extra.frees then
      redis.call('DEL', named('unique', extra[2]))
    end
    for _, limit in ipairs(extra[4] or {}) do
      if limit[2] == 'concurrency' and not untracked[id] then
        redis.call('SADD', named('permits', limit[1]), id)
      end
    end
  end
  if untracked[id] then
    delivery = '0'
    for field = #record, 7, -1 do
      record[field] = nil  -- nothing was ever counted for it
    end
    redis.call('DEL', job)
    dropped_of[queue] = (dropped_of[queue] or 0) + 1
  else
    if record[2] then
      delivery = digits(math.max(math.abs(number_of(record[2])) + 1, now))
    end
    if buffered[i] == '1' then
      redis.call('HSET', job, 'state', 'active', 'delivery', delivery, 'lease', lease, 'buffered', '1')
    else
      redis.call('HSET', job, 'state', 'active', 'delivery', delivery, 'lease', lease)
      if record[11] then
        redis.call('HDEL', job, 'buffered')
      end
    end
    moved[#moved + 1] = id
  end
  reply[filled + 1], reply[filled + 2], reply[filled + 4], reply[filled + 5] = id, delivery, queue, record
  reply[filled + 3] = id == new_suspect and 's' or buffered[i]
  filled = filled + 5
end
if #moved > 0 then
  redis.call('LPUSH', processing, unpack(moved))
end
for queue, n in pairs(dropped_of) do
  count(now, 'untracked', queue, n)
end
redis.call('HSET', instance, 'fetch', number, 'fetched', cmsgpack.pack(moved))
if new_suspect then
  redis.call('HSET', instance, 'suspect', new_suspect)
end
for name, rate in pairs(rates) do
  if rate.ahead then
    -- What started at a time that is still to come counts as started now.
    local starts = redis.call('LRANGE', named('rate', name), 0, math.min(rate.most, REWRITTEN) - 1)
    for i, start_ms in ipairs(starts) do
      if number_of(start_ms) > now then
        redis.call('LSET', named('rate', name), i - 1, now_text)
      end
    end
  end
  if rate.taken > 0 then
    local starts = {}
    for i = 1, rate.taken do
      starts[i] = now_text
    end
    redis.call('LPUSH', named('rate', name), unpack(starts))
    redis.call('LTRIM', named('rate', name), 0, rate.most - 1)
    redis.call('PEXPIRE', named('rate', name), rate.ms + RATE_KEPT_MS)
    rate.taken = 0  -- they are in the list now
  end
end
for _, lane in ipairs(visited) do
  local lanes = named('lanes', lane.queue)
  if lane.cut > 0 then
    redis.call('LTRIM', lane.list, 0, -lane.cut - 1)
    if redis.call('HINCRBY', single('laned'), lane.queue, -lane.cut) <= 0 then
      redis.call('HDEL', single('laned'), lane.queue)
    end
    if lane.cut >= lane.total then
      redis.call('HDEL', named('laned', lane.queue), lane.lane)
    else
      redis.call('HINCRBY', named('laned', lane.queue), lane.lane, -lane.cut)
    end
  end
  if lane.cut >= lane.total then
    redis.call('ZREM', lanes, lane.lane)
  elseif lane.full then
    redis.call('ZREM', lanes, lane.lane)
    redis.call('ZADD', named('waiting', lane.full), now, lane.lane)
  elseif lane.cut > 0 then
    redis.call('ZREM', lanes, lane.lane)
    ready_lane(lane.lane, paused)
  end
end
for name, most in pairs(full_at) do
  -- A lane that waited for a limit was woken and did not need it, or the limit was raised.
  if used[name] < most then
    wake_limit(name, paused)
  end
end
for name, rate in pairs(rates) do
  local at = opens_at(name, rate)
  local waits = redis.call('ZRANGE', named('waiting', name), 0, 0)[1]
  if waits and at then
    redis.call('ZADD', single('scheduled'), at, '\1' .. name)
    if not first_due or at < first_due then
      first_due = at
      reply[3] = digits(at - now)
      wake(string.match(waits, '^[^\n]*'), paused)
    end
  elseif waits then
    wake_limit(name, paused)
  end
end
if tended_left then
  reply[2] = '1'
end
for queue, whom in pairs(left) do
  if redis.call('LLEN', named('queue', queue)) + redis.call('LLEN', named('suspects', queue))
    + redis.call('ZCARD', named('lanes', queue)) > 0 then
    if whom == true then
      reply[2] = '1'
    end
    wake(queue, paused)
  end
end
if must_start and reply[2] == '1' then
  reply[2] = 'n'
elseif denied and reply[2] == '0' then
  reply[2] = 's'
end
return reply
