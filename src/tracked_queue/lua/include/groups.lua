-- groups: which suspects a fetch takes together (docs/explanation/blame.md).  It calls fetch's `look`, and fills fetch's
-- `left_line`.  What only these functions use is in a block, and so doesn't count toward the script's limit of
-- 200 local variables.
local is_empty = #suspected > 0 and redis.call('EXISTS', processing) == 0
-- some_full: a suspect that could have run here waits for a limit.
local longest, solo_waits, some_full = 0, false, false
local take_groups, enough_test, drains
do
  -- How many suspects are looked at for one group.
  local GROUP_LOOK = 50
  -- How long a suspect that should run alone waits for an empty process.
  local ALONE_MS = 10000
  -- How far ahead a suspect's place in line can be at most: many times what its charges add (see suspects.lua).
  local MOST_CONFIRMED_MS = 600000
  -- came_at: when a suspect came into its line; one whose time was written by a clock that was ahead counts as long ago.
  local function came_at(score)
    local at = number_of(score)
    return at > now + MOST_CONFIRMED_MS and 0 or at
  end
  -- take_group: takes a queue's first suspect that may run here, and those behind it, while no pool is smaller than the group.
  local function take_group(at, longest_gate)
    local queue, most = ARGV[at], tonumber(ARGV[at + 1])
    local line = redis.call('ZRANGE', named('suspected', queue), 0, GROUP_LOOK - 1, 'WITHSCORES')
    local before, room = taken, math.min(start, most or start)
    local smallest = ENDLESS
    for n = 1, #line, 2 do
      local id, since = line[n], came_at(line[n + 1])
      local found = read_fields(job_prefix .. id, 'pool', 'past', 'deaths', 'charges')
      local pool = number_of(found[1], 1)
      local gate = gate_of(number_of(found[2]), number_of(found[3]))
      local size = taken - before
      since = since - CONFIRM_MS * number_of(found[4])
      local fits = gate <= longest_gate
      if fits and pool == 1 and not is_empty and now - since < ALONE_MS then
        fits, solo_waits = false, true
      end
      if size >= room or size > 0 and (not fits or size + 1 > math.min(smallest, pool)) then
        break
      elseif fits then
        local leaves, full = look(id, queue, false, room - size)
        if leaves then
          left_line[#left_line + 1] = { id, queue }
          if taken - before > size then
            smallest, longest = math.min(smallest, pool), math.max(longest, gate)
          end
        elseif full then
          some_full = true  -- the next one may run
        end
      end
    end
    return taken > before
  end
  function take_groups(longest_gate)
    for n = 1, #suspected do
      if take_group(suspected[(number + n) % #suspected + 1], longest_gate) then
        return true
      end
    end
    return false
  end
  -- The longest that any suspect has waited in line.
  local function waited_ms()
    local most = 0
    for _, at in ipairs(suspected) do
      most = math.max(most, now - came_at(redis.call('ZRANGE', named('suspected', ARGV[at]), 0, 0, 'WITHSCORES')[2] or now))
    end
    return most
  end
  -- Whether half of the other instances already run suspects, while fresh jobs wait in the queues of this call.
  function enough_test()
    local others = math.max(0, redis.call('ZCARD', single('instances')) - 1)
    local testing = #redis.call('ZRANGEBYSCORE', single('testing'), '(' .. digits(now), '+inf', 'LIMIT', 0, others + 1)
      - (own.tests and 1 or 0)
    if testing < math.max(1, math.ceil(others / 2)) then
      return false
    end
    for at = 7, #ARGV, 2 do
      if is_takeable(ARGV[at]) then
        return true
      end
    end
    return false
  end
  -- Whether this instance is the one that is to become empty.
  function drains()
    local found = redis.call('GET', single('draining'))
    local till, who = string.match(found or '', '^(%d+) (.*)$')
    if who and number_of(till) <= now + DRAIN_MS then
      return who == lease and number_of(till) > now
    end
    if waited_ms() < DRAIN_AFTER_MS then
      return false
    end
    begin_writing()
    redis.call('SET', single('draining'), digits(now + DRAIN_MS) .. ' ' .. lease, 'PX', 2 * DRAIN_MS)
    return true
  end
end
