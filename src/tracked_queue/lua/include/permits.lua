-- permits: how a fetch keeps count of limits.  It uses fetch's `now`.
-- used: how many permits of each concurrency limit will be out after this call; rates: the starts that it adds to each rate.
local used, rates = {}, {}
-- When a rate will have room, in ms, or nil if it has room now.  Its last starts are in a list, the newest first.
local function rate_opens_at(name, rate)
  if rate.taken >= rate.most then
    return now + rate.ms
  end
  local nth = redis.call('LINDEX', named('rate', name), rate.most - 1 - rate.taken)
  rate.ahead = rate.ahead or number_of(nth) > now  -- written by a clock that was ahead
  return start_of(nth, rate.ms, now)
end
local function is_full_now(limit)
  if limit.kind == 'concurrency' then
    return used[limit.name] >= limit.most
  end
  return rate_opens_at(limit.name, rates[limit.name]) ~= nil
end
-- The limit that keeps work from starting now, or nil.
local function blocked_by(limits)
  for _, limit in ipairs(limits) do
    if is_full_now(limit) then
      return limit
    end
  end
end
local function note_limits(limits)
  for _, limit in ipairs(limits) do
    local name = limit.name
    limit.most = most_of(limit.base_length and string.sub(name, 1, limit.base_length) or name, limit.most)
    if limit.kind == 'concurrency' then
      used[name] = used[name] or redis.call('SCARD', named('permits', name))
    else
      rates[name] = rates[name] or { most = limit.most, ms = limit.ms, taken = 0 }
    end
  end
end
local function count_permits(limits)
  for _, limit in ipairs(limits) do
    local name = limit.name
    if limit.kind == 'concurrency' then
      used[name] = used[name] + 1
    else
      rates[name].taken = rates[name].taken + 1
    end
  end
end
