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
--   'ok'     then more, next_due, buried, and 5 values per job: id, delivery ('0' for an untracked one), buffered
--            ('1' or '0'), queue, and the record as a list: state, delivery before this one, task, args; for a job
--            that was delivered before, or is no plain one, also kwargs, options, tracked, attempts, interruptions,
--            recoveries, buffered before (nil where there is none)
--            more      '1' if something is left that this instance could have taken with more slots
--            next_due  ms until the next scheduled job is due, -1 if there is none
--            buried    ids without a record that were set aside as dead
--   'stale'  a later number was used; nothing taken
--   'quiet'  the instance was asked to fetch nothing; nothing taken
--   'late'   the lease is past its deadline; a beat must extend it first; nothing taken
--   'lost'   the lease is revoked or gone; nothing taken
-- A refused or repeated fetch puts the markers of its queues back: a BZPOPMIN before it may have popped one.
-- Keeps: an id is in one place; a delivery number grows with every delivery; an instance has at most one suspect.
-- Order: a suspect first if this instance has none, then each queue's right end.  Due jobs are promoted first, a
-- bounded number a call, and can be taken by the next fetch.
-- include keys
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include garbage
-- include record
-- include stats
local PROMOTE, LOOK = 250, 300
local lease, number = ARGV[1], tonumber(ARGV[2])
local start, buffer, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local instance, processing = named('instance', lease), named('processing', lease)
local now, paused = now_ms(), read_paused()

local function length(queue)
  return redis.call('LLEN', named('queue', queue)) + redis.call('LLEN', named('suspects', queue))
end
local function put_markers_back()
  begin_writing()
  for at = 6, #ARGV do
    if length(ARGV[at]) > 0 then
      wake(ARGV[at], paused)
    end
  end
end
local function refused(word)
  put_markers_back()
  return { word }
end
local job_prefix = named('job', '')
-- A plain job that was never delivered has no delivery number, and none of the further fields (see enqueue).
local function read(id)
  local record = read_fields(job_prefix .. id, 'state', 'delivery', 'task', 'args')
  if record[2] then
    local more = read_fields(job_prefix .. id, 'kwargs', 'options', 'tracked', 'attempts', 'interruptions',
      'recoveries', 'buffered')
    for i = 1, 7 do
      record[4 + i] = more[i]
    end
  end
  return record
end
local function size_of(record)
  return (record[4] and #record[4] or 0) + (record[5] and #record[5] or 0) + (record[6] and #record[6] or 0)
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
local next_due = redis.call('ZRANGEBYSCORE', single('scheduled'), '(' .. digits(now), '+inf',
  'WITHSCORES', 'LIMIT', 0, 1)
local next_due_ms = next_due[2] and digits(tonumber(next_due[2]) - now) or '-1'
if number == last then
  -- No fetch of this lease came later, so what is active under it and was taken then is that very delivery.
  put_markers_back()
  local reply = { 'ok', '1', next_due_ms, {} }
  for _, id in ipairs(own[2] and cmsgpack.unpack(own[2]) or {}) do
    local record = read(id)
    local about = read_fields(job_prefix .. id, 'lease', 'queue')
    if record[1] == 'active' and about[1] == lease then
      local n = #reply
      reply[n + 1], reply[n + 2] = id, record[2]
      reply[n + 3], reply[n + 4], reply[n + 5] = record[11] == '1' and '1' or '0', about[2], record
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
  due_records[i] = read_fields(named('job', id), 'state', 'queue', 'suspicion')
end

-- taken: parallel lists, since a table for each job costs more than the calls for it.
local ids, records, queues, buffered = {}, {}, {}, {}
local dropped, set_aside, garbage, cuts, left = {}, {}, {}, {}, {}
local bytes, started, taken, looked, suspect, new_suspect = 0, 0, 0, 0, own[4], nil
local seen, strays = {}, 0
-- look: decides on one id: true if it leaves its list with this call. What is looked at is bounded, not only what is
-- taken: dropped and set-aside jobs cost time as well.
local function look(id, queue, may_buffer)
  if looked >= LOOK or (looked > 0 and bytes > max_bytes) then
    return false
  end
  looked = looked + 1
  local record = read(id)
  local size = size_of(record)
  if not record[1] or not record[3] then
    garbage[#garbage + 1] = { id, queue }
  elseif record[1] == 'cancelled' then
    dropped[#dropped + 1] = id
  elseif record[1] ~= 'queued' or seen[id] then
    strays = strays + 1  -- it stands elsewhere, or twice here; this entry is one too many
  elseif paused['task:' .. record[3]] then
    set_aside[#set_aside + 1] = { id, record[3] }
    seen[id] = true
  else
    local waits = started >= start
    if taken >= start + buffer or (waits and (not may_buffer or record[11] == 'never'))
      or (taken > 0 and bytes + size > max_bytes) then
      return false
    end
    taken = taken + 1
    seen[id] = true
    if not waits then
      started = started + 1
    end
    ids[taken], records[taken], queues[taken], buffered[taken] = id, record, queue, waits and '1' or '0'
  end
  bytes = bytes + size
  return true
end
for at = 6, #ARGV do
  local queue = ARGV[at]
  if not paused['queue:' .. queue] then
    local room = start + buffer - taken
    local suspects = named('suspects', queue)
    local waiting = redis.call('LLEN', suspects)
    if waiting > 0 and not suspect then
      if started < start then
        local id = redis.call('LINDEX', suspects, -1)
        local before = taken
        if look(id, queue, false) then
          cuts[#cuts + 1] = { suspects, 1 }
          waiting = waiting - 1
          if taken > before then
            suspect, new_suspect = id, id
          end
        end
      end
      if waiting > 0 then
        left[queue] = true
      end
    end
    local list = named('queue', queue)
    local heads = room > 0 and redis.call('LRANGE', list, -room, -1) or {}
    local used = 0
    for i = #heads, 1, -1 do
      if not look(heads[i], queue, true) then
        break
      end
      used = used + 1
    end
    if used > 0 then
      cuts[#cuts + 1] = { list, used }
    end
    if redis.call('LLEN', list) > used then
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
    redis.call('LPUSH', named(tonumber(due_records[i][3] or '0') >= 2 and 'suspects' or 'queue', queue), id)
    wake(queue, paused)
  end
end
for _, cut in ipairs(cuts) do
  redis.call('LTRIM', cut[1], 0, -cut[2] - 1)
end
for _, id in ipairs(dropped) do
  -- Cancelled while it was queued: its end was recorded then; from now on it may expire.
  local keep = tonumber(redis.call('HGET', job_prefix .. id, 'keep_ms') or '120000')
  redis.call('PEXPIRE', job_prefix .. id, keep)
end
local buried = {}
for _, item in ipairs(garbage) do
  buried[#buried + 1] = bury_garbage(item[1], item[2], now, 'an id in the queue without a record')
end
for _, item in ipairs(set_aside) do
  redis.call('HSET', job_prefix .. item[1], 'state', 'parked')
  redis.call('LPUSH', named('parked', item[2]), item[1])
  redis.call('SADD', single('parked'), item[2])
end
local reply, moved, untracked = { 'ok', '0', next_due_ms, buried }, {}, {}
local now_text = digits(now)
for i = 1, taken do
  local id, record, queue = ids[i], records[i], queues[i]
  local job, delivery = job_prefix .. id, now_text
  if record[7] == '0' then
    delivery = '0'
    redis.call('DEL', job)
    untracked[queue] = (untracked[queue] or 0) + 1
  else
    if record[2] then
      delivery = digits(math.max(math.abs(tonumber(record[2])) + 1, now))
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
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = id, delivery, buffered[i], queue, record
end
if #moved > 0 then
  redis.call('LPUSH', processing, unpack(moved))
end
for queue, n in pairs(untracked) do
  count(now, 'untracked', queue, n)
end
redis.call('HSET', instance, 'fetch', number, 'fetched', cmsgpack.pack(moved))
if new_suspect then
  redis.call('HSET', instance, 'suspect', new_suspect)
end
if #due > 0 then
  reply[2] = '1'
end
for queue in pairs(left) do
  reply[2] = '1'
  wake(queue, paused)
end
return reply
