-- fetch: hand jobs over to an instance: from their queues into its processing list.  Called by transitions.fetch.
--
-- KEYS[1]  tag
-- ARGV[1]  lease      text
-- ARGV[2]  number     int  of this fetch; the same one again returns the same jobs (a resend)
-- ARGV[3]  start      int  jobs that will start now, at most 250
-- ARGV[4]  buffer     int  jobs beyond them that will wait in the instance; start + buffer <= 250
-- ARGV[5]  max_bytes  int  of arguments in one reply; the first job always fits
-- ARGV[6]  mode       word which suspects (see docs/explanation/blame.md) this process may run:
--                     'none'   none: it has jobs that this shard doesn't know of
--                     'first'  any, before fresh jobs, while it has no fresh job itself (a process without a supervisor)
--                     'idle'   those that need little time, if there is no fresh job to take
--                     'only'   nothing but suspects
--                     'short'  the same, but only those that need little time
-- then 2 values per queue, in priority order:
--   queue  text
--   most   int  jobs of this queue that may be taken, '' for no limit of its own
-- Derived: instances, instance:<lease>, processing:<lease>, scheduled, queue:<q>, suspected:<q>, suspecting, testing, draining,
--          lanes:<q>, lane:<lane>, laned, laned:<q>, waiting:<limit>\n<q>, waits:<limit>, open:<q>, opens, about:<limit>,
--          waited:<base>, timer, wake_timer, permits:<limit>, rate:<limit>, limits, unique:<key>, ended,
--          followers:<id>, told:<id>, after:<id>, dependents, wake:<q>, wake_suspects:<q>, job:<id>, paused, parked,
--          parked:<task>, dead, stats:<minute>, queues, ends:<q>
--
-- Returns a list; its first word:
--   'ok'     then more, next_due, buried, held, suspects, now (ms), and 5 values per job: id, delivery ('0' for an
--            untracked one), buffered ('1' or '0'), queue, and the record as a list: since when it has waited (ms; its enqueue or due time, ''
--            if a delivery has ended otherwise since then), delivery before this one, task, args; for a job
--            that was delivered before, or is no plain one, also kwargs, options, and unless it is untracked: tracked,
--            attempts, interruptions, recoveries, buffered before, checkpoint, bound, trace (nil where there is none)
--            more      '1' if something is left that this instance could have taken with more slots; 'n' if that has to start at
--                      once, so that it would never be taken by an instance whose buffer never runs empty
--            next_due  ms after which this instance is to fetch again, for what comes due then; -1 if it need not
--            buried    ids without a record that were set aside as dead
--            held      ms for which this instance gets nothing more (unless its list becomes empty sooner), because it runs
--                      suspects, or has to become empty to run some; else 0
--            suspects  '1' if suspects are left in the queues of this call, or were taken by it; 'l' if none was taken, and
--                      of those that this call looked at (50 of a queue) each that could have run here waits for a limit
--   'stale'  a later number was used; nothing taken
--   'quiet'  the instance was asked to fetch nothing; nothing taken
--   'late'   the lease is past its deadline; a beat must extend it first; nothing taken
--   'lost'   the lease is revoked or gone; nothing taken
-- A refused or repeated fetch puts markers back: a BZPOPMIN before it may have popped one.
-- Keeps: an id is in one place; a delivery number grows with every delivery; nothing joins a suspect that has not outlived its
-- gate, except the suspects taken with it, and no more of those than the pool of each allows; no limit has more permits out than
-- its number, and no rate has more starts than its number in any window.
-- Order: due jobs, and followers of ended jobs, are made takeable first (see lua/include/tend.lua), a bounded number a call, so
-- that they have their place among the others.  Then a group of suspects, or each queue: its list from the right end, and its
-- lanes in turn.
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
-- include timer
-- include ties
-- include lanes
-- include limits
-- include takeable
-- include push
-- include suspects
-- include ends
-- include ended
-- include stats
-- include unique
-- include expiry
-- include after
-- include followers
-- include tend
-- LOOK: how many jobs a call looks at; one with a unique key or limits counts as RICH jobs.  FURTHER: how many more are read at
-- once when some of those read first have been dropped.
local LOOK, RICH, FURTHER = 300, 4, 50
-- How many open groups are looked at, for each queue.
local GROUPS = 20
-- An instance that owns the timer and is late by more than this is dead, or stands still.
local LATE_MS = 250
-- With more arguments than this, queues are looked up one by one: Lua can't pass more than 8,000 values at once.
local ASKED = 6000
-- How long a rate's list is kept beyond its window, so that it is this clock that counts, and not the moment when the server
-- expires the key (a test's clock may stand still).
local RATE_KEPT_MS = 60000
local lease, number = ARGV[1], tonumber(ARGV[2])
local start, buffer, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local instance, processing = named('instance', lease), named('processing', lease)
local now = now_ms()
-- Suspects that have run for this long in a process of their own are joined by a further group.
local PATIENCE_MS = 5000
-- The longest gate that an ordinary process takes, and the longest where suspects must not keep others waiting.
local IDLE_GATE_MS, SHORT_GATE_MS = 10000, 60000
-- Where suspects have no process of their own: once some have waited for DRAIN_AFTER_MS, one process takes nothing fresh until it
-- is empty, for at most DRAIN_MS; after that no process does so for as long again.
local DRAIN_AFTER_MS, DRAIN_MS, AGAIN_MS = 60000, 60000, 1000
-- If the clock is this far behind a time that it gave earlier, it went back.
local WRONG_MS = 60000
-- What is usually absent is looked up in one call: pauses, ended jobs with followers, suspects, lanes and what comes due later.
local some_special = #ARGV > ASKED
if not some_special then
  local special = { single('paused'), single('ended'), single('suspecting'), single('opens'), single('timer') }
  for at = 7, #ARGV, 2 do
    special[#special + 1], special[#special + 2] = named('lanes', ARGV[at]), named('open', ARGV[at])
  end
  some_special = redis.call('EXISTS', unpack(special)) > 0
end
local paused = some_special and read_paused() or {}

local function put_markers_back()
  begin_writing()
  for at = 7, #ARGV, 2 do
    local queue = ARGV[at]
    if is_takeable(queue) then
      wake(queue, paused)
    end
    if some_special and redis.call('EXISTS', named('suspected', queue)) > 0 then
      wake_suspects(queue, paused)
    end
  end
end
-- something_in_time: when the next thing of any kind comes due, or nil.  first_due: when the first scheduled job does.
local first_due = nil
local function something_in_time()
  if redis.call('EXISTS', single('ended')) == 1 then
    return now
  end
  local opens = tonumber(redis.call('ZRANGE', single('opens'), 0, 0, 'WITHSCORES')[2])
  return opens and first_due and math.min(opens, first_due) or opens or first_due
end
-- step_aside: this call takes nothing, so other instances must be able to.
local function step_aside()
  put_markers_back()
  -- An instance that is refused gives up the timer, even if nothing is to come due: else the next delayed job would rely on it.
  first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
  local holder = redis.call('HGET', single('timer'), 'lease')
  if holder == lease then
    redis.call('HDEL', single('timer'), 'lease', 'at')
  end
  if (not holder or holder == lease) and something_in_time() then
    redis.call('ZADD', single('wake_timer'), 0, 'takeable')
  end
end
local function refused(word)
  step_aside()
  return { word }
end
local job_prefix = named('job', '')
-- A plain job that was never delivered has no delivery number, and none of the further fields but `tracked` (see enqueue).
-- Extras are the fields that the decision here needs: expires_ms, unique, until, limits.
local extras, untracked = {}, {}
-- Positions in the list of a job's record, as the header describes it.
local AT = { since = 1, delivery = 2, task = 3, args = 4, kwargs = 5, options = 6, tracked = 7, attempts = 8, interruptions = 9,
  recoveries = 10, buffered = 11, checkpoint = 12, bound = 13, trace = 14 }
-- read: that list, and the job's state.
local function read(id, job)
  -- Of a plain job this is all.
  local record = read_fields(job, 'queued_ms', 'delivery', 'task', 'args', 'tracked', 'state')
  local tracked, state = record[5], record[6]
  record[6], record[5] = nil, nil
  if tracked == '0' then
    untracked[id] = true
  end
  if record[AT.delivery] then
    local more = read_fields(job, 'kwargs', 'options', 'attempts', 'interruptions', 'recoveries', 'buffered', 'tied', 'due_ms')
    local tied = more[7]
    if more[4] or more[5] then
      record[AT.since] = ''  -- it has been elsewhere since
    elseif more[8] and number_of(more[8]) > number_of(record[AT.since]) then
      record[AT.since] = more[8]
    end
    record[AT.kwargs], record[AT.options], record[AT.tracked] = more[1], more[2], tracked
    record[AT.attempts], record[AT.interruptions], record[AT.recoveries] = more[3], more[4], more[5]
    record[AT.buffered], record[AT.checkpoint] = more[6], false
    if tied then
      local found = read_fields(job, 'expires_ms', 'unique', 'until', 'limits', 'checkpoint', 'bound', 'trace')
      record[AT.checkpoint], record[AT.bound], record[AT.trace] = found[5], found[6], found[7]
      extras[id] = { expires_ms = found[1], unique = found[2], until_what = found[3], limits = found[4] }
    end
  end
  return record, state
end
local function size_of(record)
  local args, kwargs, options, checkpoint = record[AT.args], record[AT.kwargs], record[AT.options], record[AT.checkpoint]
  return (args and #args or 0) + (kwargs and #kwargs or 0) + (options and #options or 0) + (checkpoint and #checkpoint or 0)
end

-- Read.
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if not deadline or deadline == 0 then
  return refused('lost')
end
local own = redis.call('HMGET', instance, 'fetch', 'fetched', 'quiet', 'held', 'tests')
own = { number = own[1], fetched = own[2], quiet = own[3], held = own[4], tests = own[5] }
local last = tonumber(own.number or '0')
if number < last then
  return refused('stale')
end
first_due = tonumber((redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES'))[2])
local some_due = first_due and first_due <= now
-- tested_ms: when this instance took its latest group of suspects; 0 once a fresh job has joined.  A hold that was written by a
-- clock that was ahead is over.
local tested_ms, held_ms = number_of(own.tests), math.max(0, number_of(own.held) - now)
if tested_ms > now + WRONG_MS then
  tested_ms, held_ms = 1, 0
end
if number == last then
  -- This lease has not fetched since, so a job that was taken then and is active under it is still in that same delivery.
  step_aside()
  local reply = { 'ok', '1', '-1', {}, digits(held_ms), held_ms > 0 and '1' or '0', digits(now) }
  for _, id in ipairs(own.fetched and cmsgpack.unpack(own.fetched) or {}) do
    local record, state = read(id, job_prefix .. id)
    local about = read_fields(job_prefix .. id, 'lease', 'queue')
    if state == 'active' and about[1] == lease then
      local n = #reply
      reply[n + 1], reply[n + 2] = id, record[AT.delivery]
      reply[n + 3] = record[AT.buffered] == '1' and '1' or '0'
      record[AT.since] = ''
      reply[n + 4], reply[n + 5] = about[2], record
    end
  end
  return reply
end
if own.quiet == '1' then
  return refused('quiet')
end
if deadline <= now then
  return refused('late')
end

-- Due jobs, and followers of ended jobs, come first, so that they have their place among those that can be taken.
local tended_left = false
local opens_at = some_special and tonumber((redis.call('ZRANGE', single('opens'), 0, 0, 'WITHSCORES'))[2])
local some_opens = opens_at and opens_at <= now
if some_due or some_opens or some_special and redis.call('EXISTS', single('ended')) == 1 then
  -- What becomes takeable here, in the queues of this call, the call may take itself: others are woken below for the rest.
  for at = 7, #ARGV, 2 do
    woken[ARGV[at]] = ARGV[6] ~= 'only' and ARGV[6] ~= 'short'
  end
  tended_left = tend(now, paused, some_due, some_opens)
  for at = 7, #ARGV, 2 do
    woken[ARGV[at]] = nil
  end
  some_special = true
  first_due = tonumber((redis.call('ZRANGEBYSCORE', single('scheduled'), '(' .. digits(now), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1))[2])
end

-- The jobs taken, as parallel lists: a table for each job would cost more than the Redis calls for it.
local ids, jobs, records, queues, buffered = {}, {}, {}, {}, {}
local dropped, expired, set_aside, garbage, cuts, visited, left = {}, {}, {}, {}, {}, {}, {}
local bytes, started, taken, looked = 0, 0, 0, 0
local must_start = false
local seen, strays = {}, 0
-- Open groups that this call has looked at.
local groups = {}
-- Suspects that leave their line with this call, as {id, queue}.
local left_line = {}
-- include permits
-- look: decides about one id.  Returns true if it leaves its list with this call; else false, and the limit that blocks it, if
-- one does.  How many are looked at is bounded, not only how many are taken: dropped and set-aside jobs cost time as well.
local some_paused = next(paused) ~= nil
-- An untracked job is gone once it is handed over, so this checks first whether the instance knows its task; tracked jobs can be
-- handed back.
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
  local job = job_prefix .. id
  local record, state = read(id, job)
  local size, extra = size_of(record), extras[id]
  local task, buffered_before = record[AT.task], record[AT.buffered]
  local ran_before = record[AT.attempts] or record[AT.interruptions] or record[AT.recoveries]
  looked = looked + (extra and RICH or 1)
  local limits = extra and read_limits(extra.limits)
  if extra then
    extra.limits = limits
  end
  if limits then
    note_limits(limits)
  end
  if not state or not task or not (OPEN[state] or FINAL[state]) then
    garbage[#garbage + 1] = { id, queue }
  elseif state == 'cancelled' then
    dropped[#dropped + 1] = id
  elseif state ~= 'queued' or seen[id] then
    strays = strays + 1  -- the job is elsewhere, or twice in this list; this entry is one too many
  elseif extra and extra.expires_ms and number_of(extra.expires_ms, now + 1) <= now and not ran_before then
    expired[#expired + 1] = { id, queue, read_ties(id, job, '1') }
    seen[id] = true
  elseif some_paused and paused['task:' .. task] or untracked[id] and not knows(task) then
    set_aside[#set_aside + 1] = { id, task }
    seen[id] = true
  else
    local waits = started >= start
    if room <= 0 or taken >= start + buffer or (taken > 0 and bytes + size > max_bytes) then
      return false
    elseif waits and (not may_buffer or buffered_before == 'never') then
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
    if extra and extra.until_what == 'started' then
      extra.frees = redis.call('GET', named('unique', extra.unique)) == id
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
-- include turns
-- Suspects.
local mode = ARGV[6]
-- Positions in ARGV of those queues of this call in which suspects wait.
local suspected = {}
if some_special then
  local suspecting = {}
  for _, queue in ipairs(redis.call('SMEMBERS', single('suspecting'))) do
    suspecting[queue] = true
  end
  for at = 7, #ARGV, 2 do
    if suspecting[ARGV[at]] and not paused['queue:' .. ARGV[at]] then
      suspected[#suspected + 1] = at
    end
  end
end
-- include groups
local may_start, has_place = start, mode ~= 'only' and mode ~= 'short'
local wants_fresh = has_place and held_ms == 0
local took_group = false
if #suspected > 0 and held_ms == 0 and start > 0 then
  if mode == 'only' or mode == 'short' then
    if is_empty then
      took_group = take_groups(mode == 'only' and ENDLESS or SHORT_GATE_MS)
    elseif tested_ms > 0 and now - tested_ms >= PATIENCE_MS then
      took_group = take_groups(SHORT_GATE_MS)
    end
  elseif mode == 'first' and (is_empty or tested_ms > 0) then
    if not enough_test() then
      took_group = take_groups(ENDLESS)
      wants_fresh = not took_group and not solo_waits
    end
  elseif mode == 'first' and drains() then
    wants_fresh = false
  end
  if mode == 'first' and not wants_fresh and not took_group then
    held_ms = AGAIN_MS
  end
end
if not wants_fresh then
  start, buffer = taken, 0
elseif own.held then
  buffer = 0  -- a job that joins former suspects must start at once
end
local fresh_from = taken
for at = 7, #ARGV, 2 do
  local queue, most = ARGV[at], tonumber(ARGV[at + 1])
  if not paused['queue:' .. queue] and mode ~= 'only' and mode ~= 'short' then
    local before = taken
    local room = start + buffer - taken
    if most then
      room = math.min(room, most - (taken - before))
    end
    local list = named('queue', queue)
    local turns = some_special and redis.call('EXISTS', named('lanes', queue), named('open', queue)) > 0
    local cut, stay = 0, false
    if turns and room > 0 then
      -- Neither the list nor the lanes may starve the other: fetches begin with them alternately, for half of the room.
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
if mode == 'idle' and held_ms == 0 and is_empty and taken == 0 and start > 0 then
  took_group = take_groups(IDLE_GATE_MS)
end

-- Write.
local now_text = digits(now)
for _, cut in ipairs(cuts) do
  redis.call('LTRIM', cut[1], 0, -cut[2] - 1)
end
if #cuts == 0 then
  begin_writing()  -- a cut does the same
end
for _, item in ipairs(left_line) do
  unsuspend(item[1], item[2])
end
if took_group then
  held_ms = longest
  redis.call('HSET', instance, 'held', digits(now + longest), 'tests', now_text)
  redis.call('ZADD', single('testing'), math.min(now + longest, now + 60 * DRAIN_MS), lease)
elseif own.held and taken > fresh_from then
  redis.call('HDEL', instance, 'held', 'tests')  -- its suspects are past their gates, and have company now
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
local reply, moved, filled, dropped_of = { 'ok', '0', '-1', buried, digits(held_ms), '0', now_text }, {}, 7, {}
for i = 1, taken do
  local id, job, record, queue, delivery = ids[i], jobs[i], records[i], queues[i], now_text
  local extra = extras[id]
  if extra then
    if extra.frees then
      redis.call('DEL', named('unique', extra.unique))
    end
    for _, limit in ipairs(extra.limits or {}) do
      if limit.kind == 'concurrency' and not untracked[id] then
        redis.call('SADD', named('permits', limit.name), id)
      end
    end
  end
  if untracked[id] then
    delivery = '0'
    for field = #record, AT.tracked, -1 do
      record[field] = nil  -- nothing was ever counted for it
    end
    redis.call('DEL', job)
    dropped_of[queue] = (dropped_of[queue] or 0) + 1
  else
    if record[AT.delivery] then
      delivery = digits(math.max(math.abs(number_of(record[AT.delivery])) + 1, now))
    end
    if buffered[i] == '1' then
      redis.call('HSET', job, 'state', 'active', 'delivery', delivery, 'lease', lease, 'buffered', '1')
    else
      redis.call('HSET', job, 'state', 'active', 'delivery', delivery, 'lease', lease)
      if record[AT.buffered] then
        redis.call('HDEL', job, 'buffered')
      end
    end
    moved[#moved + 1] = id
  end
  reply[filled + 1], reply[filled + 2], reply[filled + 4], reply[filled + 5] = id, delivery, queue, record
  reply[filled + 3] = buffered[i]
  filled = filled + 5
end
if #moved > 0 then
  redis.call('SADD', processing, unpack(moved))
end
for queue, n in pairs(dropped_of) do
  count(now, 'untracked', queue, n)
end
redis.call('HSET', instance, 'fetch', number, 'fetched', cmsgpack.pack(moved))
for name, rate in pairs(rates) do
  if rate.ahead then
    rewind(name, rate.most, now)
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
    redis.call('ZREM', lane.home, lane.lane)
  elseif lane.full then
    redis.call('ZREM', lane.home, lane.lane)
    join(lane.full, lane.queue, lane.lane, now)
    groups[#groups + 1] = { limit = lane.full, queue = lane.queue }
  elseif lane.cut > 0 then
    local last = redis.call('ZREVRANGE', lane.home, 0, 0, 'WITHSCORES')
    redis.call('ZADD', lane.home, tonumber(last[2]) + 1, lane.lane)
  end
end
for _, group in ipairs(groups) do
  local limit, queue = group.limit, group.queue
  local name = limit.name
  if redis.call('EXISTS', group_of(name, queue)) == 0 then
    if redis.call('ZSCORE', named('open', queue), name) then
      forget_group(name, queue)
    end
  else
    local starts = limit.kind ~= 'concurrency' and rate_opens_at(name, rates[name]) or nil
    if starts or limit.kind == 'concurrency' and used[name] >= limit.most then
      close(name, queue, group.took and now or redis.call('ZSCORE', named('open', queue), name) or now, starts, now)
    elseif group.took then
      redis.call('ZADD', named('open', queue), 'XX', now, name)
    end
  end
end
if tended_left then
  reply[2] = '1'
end
for queue, whom in pairs(left) do
  if is_takeable(queue) then
    if whom == true then
      reply[2] = '1'
    end
    wake(queue, paused)
  end
end
local only_full = some_full and not took_group and #left_line == 0
for _, at in ipairs(suspected) do
  reply[6] = only_full and 'l' or '1'
  if redis.call('EXISTS', named('suspected', ARGV[at])) == 1 then
    wake_suspects(ARGV[at], paused)
  end
end
if must_start and reply[2] == '1' then
  reply[2] = 'n'
end
-- The timer: an instance with a free place owns it; or nobody does, and an idle instance is woken to take it.
if first_due or some_special or timer_called then
  local at = (some_special or timer_called) and something_in_time() or first_due
  local holder = redis.call('HMGET', single('timer'), 'lease', 'at')
  local is_mine = holder[1] == lease
  local is_late = holder[1] and number_of(holder[2]) + LATE_MS < now
  if at and has_place and started < may_start and held_ms == 0 and (not holder[1] or is_mine or is_late) then
    if not is_mine or number_of(holder[2]) ~= at then
      redis.call('HSET', single('timer'), 'lease', lease, 'at', digits(at))
    end
    redis.call('DEL', single('wake_timer'))
    reply[3] = digits(math.max(0, at - now))
  elseif is_mine or at and not holder[1] then
    redis.call('HDEL', single('timer'), 'lease', 'at')
    if at then
      redis.call('ZADD', single('wake_timer'), 0, 'takeable')
    end
  end
end
write_ends()
return reply
