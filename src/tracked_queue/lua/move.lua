-- move: put jobs that have not started into another queue, at a person's request.  Called by transitions.move.
--
-- KEYS[1]  tag
-- ARGV[1]  by     text  who asks for it
-- ARGV[2]  queue  text  where they are to wait
-- ARGV[3..] id    text  at most 20: each may be searched for
-- Derived: job:<id>, queue:<q>, queues, wake:<q>, paused, lane:<lane>, lanes:<q>, laned, laned:<q>, suspected:<q>, suspecting,
--          wake_suspects:<q>
--
-- Returns one word per job:
--   'ok'       it is in that queue: at the end of its line if it was queued; else once it is due, is requeued, or may start
--   'same'     it was there already; nothing written
--   'started'  it is active; nothing written
--   'ended'    it has ended; nothing written
--   'limited'  it is in a lane of its queue, or has limits, which are counted there; nothing written
--   'suspect'  it may have killed its process, and has its place among the suspects; nothing written
--   'deep'     it is neither among the first nor the last SEARCHED of its queue; nothing written
--   'foreign'  a key of another type stands in the place of that queue's list; nothing written
--   'gone'     no record; nothing written
-- include keys
-- include now_ms
-- include writable
-- include paused
-- include wake
-- include record
-- include number
-- include states
-- include lanes
-- include suspects
-- include push
-- include history
local SEARCHED = 5000
local by, queue, now, paused = ARGV[1], ARGV[2], now_ms(), read_paused()
local words, records, seen = {}, {}, {}
local kind = redis.call('TYPE', named('queue', queue)).ok
local is_foreign = kind ~= 'list' and kind ~= 'none'
-- side_of: from which end a list finds an id: -1 for its head, on the right, 1, or nil.
local function side_of(list, id)
  for _, rank in ipairs({ -1, 1 }) do
    if redis.call('LPOS', list, id, 'RANK', rank, 'MAXLEN', SEARCHED) then
      return rank
    end
  end
end
local function word_of(id)
  local job = named('job', id)
  local found = read_fields(job, 'state', 'queue', 'lane', 'limits', 'pool', 'events')
  local state, from = found[1], queue_of(found[2])
  if not state then
    return 'gone'
  elseif state == 'active' then
    return 'started'
  elseif FINAL[state] and state ~= 'dead' then
    return 'ended'
  elseif from == queue or seen[id] then
    return 'same'
  elseif is_foreign then
    return 'foreign'
  elseif found[3] or found[4] then
    return 'limited'
  elseif found[5] then
    return 'suspect'
  end
  local side = state == 'queued' and side_of(named('queue', from), id)
  if state == 'queued' and not side then
    return 'deep'
  end
  seen[id] = true
  records[#records + 1] = { id = id, job = job, side = side, events = found[6], from = from }
  return 'ok'
end
for at = 3, #ARGV do
  words[#words + 1] = word_of(ARGV[at])
end
begin_writing()
for _, record in ipairs(records) do
  redis.call('HSET', record.job, 'queue', queue)
  redis.call('HDEL', record.job, 'bound')  -- the worker binds it to the limits of the new queue, as any that lacks them
  redis.call('HSET', record.job, event_of(record.events, now, 'moved', '', '', by .. ', from ' .. record.from))
  if record.side then
    redis.call('LREM', named('queue', record.from), record.side, record.id)
    push_job('LPUSH', record.id, queue, nil, nil, paused)
  end
end
return words
