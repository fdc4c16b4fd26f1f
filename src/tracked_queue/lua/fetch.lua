-- fetch: hand jobs over to an instance: from their queues into its processing list.  Called by transitions.fetch.
--
-- KEYS[1]  tag
-- ARGV[1]  lease      text
-- ARGV[2]  number     int  of this fetch; the same one again returns the same jobs (a resend)
-- ARGV[3]  start      int  jobs that will start now, at most 250
-- ARGV[4]  buffer     int  jobs beyond them that will wait in the instance; start + buffer <= 250
-- ARGV[5]  max_bytes  int  of arguments in one reply; the first job always fits
-- ARGV[6..] queue     text in priority order
-- Derived: instances, instance:<lease>, processing:<lease>, scheduled, queue:<q>, suspects:<q>, wake:<q>, job:<id>,
--          paused, parked, parked:<task>, dead
--
-- Returns a list; its first word:
--   'ok'     then more, next_due, buried, and 11 values per job: id, delivery, buffered ('1' or '0'), task, args,
--            kwargs, options, queue, attempts, interruptions, recoveries ('' where there is none)
--            more      '1' if something is left that this instance could have taken with more slots
--            next_due  ms until the next scheduled job is due, -1 if there is none
--            buried    ids without a record that were set aside as dead
--   'stale'  a later number was used; nothing taken
--   'quiet'  the instance was asked to fetch nothing; nothing taken
--   'late'   the lease is past its deadline; a beat must extend it first; nothing taken
--   'lost'   the lease is revoked or gone; nothing taken
-- A refused fetch puts the markers of its queues back, since a BZPOPMIN before it may have popped one.
-- Keeps: an id is in one place; a delivery number grows with every delivery; an instance has at most one suspect.
-- Order: a suspect first if this instance has none, then each queue's right end.  Due jobs are promoted first, a
-- bounded number a call, and can be taken by the next fetch.
-- include keys
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include garbage
-- include stats
local PROMOTE = 250
local lease, number = ARGV[1], tonumber(ARGV[2])
local start, buffer, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local instance, processing = named('instance', lease), named('processing', lease)
local now, paused = now_ms(), read_paused()

local function length(queue)
  return redis.call('LLEN', named('queue', queue)) + redis.call('LLEN', named('suspects', queue))
end
local function refused(word)
  for at = 6, #ARGV do
    if length(ARGV[at]) > 0 then
      wake(ARGV[at], paused)
    end
  end
  return { word }
end
local function text(value)
  return value or ''
end
local function add_job(reply, id, delivery, buffered, record)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, delivery, buffered, text(record[2])
  reply[n + 5], reply[n + 6], reply[n + 7] = text(record[3]), text(record[4]), text(record[5])
  reply[n + 8], reply[n + 9] = text(record[6]), text(record[7])
  reply[n + 10], reply[n + 11] = text(record[8]), text(record[9])
end
local function read(id)
  return redis.call('HMGET', named('job', id), 'state', 'task', 'args', 'kwargs', 'options', 'queue', 'attempts',
    'interruptions', 'recoveries', 'delivery', 'buffered', 'tracked')
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
local next_due = redis.call('ZRANGEBYSCORE', single('scheduled'), '(' .. string.format('%.0f', now), '+inf',
  'WITHSCORES', 'LIMIT', 0, 1)
local next_due_ms = next_due[2] and string.format('%.0f', tonumber(next_due[2]) - now) or '-1'
if number == last then
  local reply = { 'ok', '1', next_due_ms, {} }
  for _, item in ipairs(own[2] and cmsgpack.unpack(own[2]) or {}) do
    local id, delivery, buffered = item[1], item[2], item[3]
    local record = read(id)
    if record[1] == 'active' and record[10] == delivery and redis.call('HGET', named('job', id), 'lease') == lease then
      add_job(reply, id, delivery, buffered, record)
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

local due = redis.call('ZRANGEBYSCORE', single('scheduled'), '-inf', now, 'LIMIT', 0, PROMOTE)
local due_records = {}
for i, id in ipairs(due) do
  due_records[i] = redis.call('HMGET', named('job', id), 'state', 'queue')
end

local taken, dropped, set_aside, garbage, cuts = {}, {}, {}, {}, {}
local bytes, started, left, suspect = 0, 0, {}, own[4]
for at = 6, #ARGV do
  local queue = ARGV[at]
  if not paused['queue:' .. queue] then
    local room = start + buffer - #taken
    local ids = room > 0 and redis.call('LRANGE', named('queue', queue), -room, -1) or {}
    local waiting = redis.call('LLEN', named('suspects', queue))
    if waiting > 0 and not suspect and started < start then
      local id = redis.call('LINDEX', named('suspects', queue), -1)
      local item = { id = id, record = read(id), queue = queue, list = named('suspects', queue) }
      cuts[#cuts + 1] = { list = item.list, n = 1 }
      waiting = waiting - 1
      if not item.record[1] then
        garbage[#garbage + 1] = item
      elseif item.record[1] == 'cancelled' then
        dropped[#dropped + 1] = item
      elseif paused['task:' .. text(item.record[2])] then
        set_aside[#set_aside + 1] = item
      else
        suspect = id
        item.suspect, item.buffered = true, '0'
        taken[#taken + 1] = item
        started = started + 1
        bytes = bytes + #text(item.record[3]) + #text(item.record[4])
      end
      if waiting > 0 then
        left[queue] = true
      end
    end
    local used = 0
    for i = #ids, 1, -1 do
      local id = ids[i]
      local item = { id = id, record = read(id), queue = queue }
      local record = item.record
      local size = #text(record[3]) + #text(record[4])
      if not record[1] then
        garbage[#garbage + 1] = item
      elseif record[1] == 'cancelled' then
        dropped[#dropped + 1] = item
      elseif paused['task:' .. text(record[2])] then
        set_aside[#set_aside + 1] = item
      elseif #taken >= start + buffer or (started >= start and record[11] == 'never')
        or (#taken > 0 and bytes + size > max_bytes) then
        break
      else
        item.buffered = started < start and '0' or '1'
        started = started + (item.buffered == '0' and 1 or 0)
        bytes = bytes + size
        taken[#taken + 1] = item
      end
      used = used + 1
    end
    if used > 0 then
      cuts[#cuts + 1] = { list = named('queue', queue), n = used }
    end
    if redis.call('LLEN', named('queue', queue)) > used then
      left[queue] = true
    end
  end
end

-- Write.
begin_writing()
for i, id in ipairs(due) do
  local state, queue = due_records[i][1], due_records[i][2]
  redis.call('ZREM', single('scheduled'), id)
  if not state then
    bury_garbage(id, '', now, 'a scheduled id without a record')
  elseif state == 'scheduled' then
    redis.call('HSET', named('job', id), 'state', 'queued')
    redis.call('LPUSH', named('queue', queue), id)
    wake(queue, paused)
  end
end
for _, cut in ipairs(cuts) do
  redis.call('LTRIM', cut.list, 0, -cut.n - 1)
end
for _, item in ipairs(dropped) do
  -- Cancelled while it was queued: its end was recorded then; from now on it may expire.
  local keep = tonumber(redis.call('HGET', named('job', item.id), 'keep_ms') or '120000')
  redis.call('PEXPIRE', named('job', item.id), keep)
end
local buried = {}
for _, item in ipairs(garbage) do
  buried[#buried + 1] = bury_garbage(item.id, item.queue, now, 'an id in the queue without a record')
end
for _, item in ipairs(set_aside) do
  local task = item.record[2]
  redis.call('HSET', named('job', item.id), 'state', 'parked')
  redis.call('LPUSH', named('parked', task), item.id)
  redis.call('SADD', single('parked'), task)
end
local reply, moved, fetched = { 'ok', '0', next_due_ms, buried }, {}, {}
local untracked = {}
for _, item in ipairs(taken) do
  local id, record, job = item.id, item.record, named('job', item.id)
  if record[12] == '0' then
    redis.call('DEL', job)
    untracked[item.queue] = (untracked[item.queue] or 0) + 1
    add_job(reply, id, '0', item.buffered, record)
  else
    local delivery = string.format('%.0f', math.max(tonumber(record[10] or '0') + 1, now))
    redis.call('HSET', job, 'state', 'active', 'delivery', delivery, 'lease', lease, 'fetched_ms', now)
    if item.buffered == '1' then
      redis.call('HSET', job, 'buffered', '1')
    elseif record[11] then
      redis.call('HDEL', job, 'buffered')
    end
    if item.suspect then
      redis.call('HSET', instance, 'suspect', id)
    end
    moved[#moved + 1] = id
    fetched[#fetched + 1] = { id, delivery, item.buffered }
    add_job(reply, id, delivery, item.buffered, record)
  end
end
if #moved > 0 then
  redis.call('LPUSH', processing, unpack(moved))
end
for queue, n in pairs(untracked) do
  count(now, 'untracked', queue, n)
end
redis.call('HSET', instance, 'fetch', number, 'fetched', cmsgpack.pack(fetched))
if #due > 0 then
  reply[2] = '1'
end
for queue in pairs(left) do
  reply[2] = '1'
  wake(queue, paused)
end
return reply
