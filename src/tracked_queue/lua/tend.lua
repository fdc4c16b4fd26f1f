-- tend: make due jobs and followers of ended jobs takeable, a bounded number a call.  Each fetch does the same; this is for when
-- no instance has a free place, so that none fetches.  Called by transitions.tend.
--
-- KEYS[1]  tag
-- Derived: scheduled, ended, job:<id>, followers:<id>, told:<id>, after:<id>, dependents, queue:<q>, suspected:<q>, suspecting,
--          lane:<lane>, lanes:<q>, laned, laned:<q>, waits:<limit>, open:<q>, opens, about:<limit>, waited:<base>, limits,
--          permits:<limit>, rate:<limit>, wake:<q>, wake_suspects:<q>, timer, wake_timer, unique:<key>, dead, paused,
--          stats:<minute>, queues, ends:<q>
--
-- Returns '1' if something is left, else '0'.
-- After the clock went back by more than a TTL (`rewind` in `timer`, see heartbeat), delays that were counted by a clock that
-- was ahead are counted from now instead, a bounded number a call, the farthest first.  A time that the caller named stays.
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
-- include unique
-- include timer
-- include ties
-- include lanes
-- include limits
-- include push
-- include ends
-- include ended
-- include stats
-- include expiry
-- include after
-- include followers
-- include tend
local REWOUND = 250
-- rewind_delays: does that for some delays; returns whether any are left.
local function rewind_delays(now)
  local from, skip = string.match(redis.call('HGET', single('timer'), 'rewind') or '', '^(%S+) (%d+)$')
  if not from then
    return false
  end
  local found = redis.call('ZREVRANGEBYSCORE', single('scheduled'), from, '(' .. digits(now), 'WITHSCORES',
    'LIMIT', skip, REWOUND)
  begin_writing()
  skip = tonumber(skip)
  for n = 1, #found, 2 do
    local id, due = found[n], found[n + 1]
    local gathers = string.byte(id) == 2
    local job = named('job', gathers and string.sub(id, 2) or id)
    local times = read_fields(job, 'set_ms', 'queued_ms')
    local set = number_of(times[1] or times[2])
    if due ~= from then
      from, skip = due, 0
    end
    if set > now then
      local to = now + math.max(0, tonumber(due) - set)
      redis.call('ZADD', single('scheduled'), to, id)
      redis.call('HSET', job, 'set_ms', digits(now))
      if not gathers then
        redis.call('HSET', job, 'due_ms', digits(to))
      end
      call_timer(to)
    else
      skip = skip + 1
    end
  end
  local is_over = #found < 2 * REWOUND
  if is_over then
    redis.call('HDEL', single('timer'), 'rewind')
  else
    redis.call('HSET', single('timer'), 'rewind', from .. ' ' .. skip)
  end
  return not is_over
end
local now = now_ms()
local left = rewind_delays(now)
left = tend(now, read_paused(), true, true) or left
write_ends()
return { left and '1' or '0' }
