-- drop: take ended jobs off the head of a list, so that their records may expire; for lists from which nobody may ever fetch
-- again.  Called by transitions.drop.
--
-- KEYS[1]  tag
-- ARGV[1]  kind  word  'queue', 'lane' or 'parked'
-- ARGV[2]  name  text  of the queue, the lane or the task
-- ARGV[3]  n     int   how many ids this call looks at, at most 70
-- Derived: queue:<q>, lane:<lane>, lanes:<q>, laned, laned:<q>, waiting:<limit>\n<q>, waits:<limit>, open:<q>,
--          opens, about:<limit>, waited:<base>, parked, parked:<task>, job:<id>, dead, followers:<id>, told:<id>, after:<id>,
--          ended
--
-- Returns how many left the list.  Ended jobs behind one that may still run stay: a fetch of that one drops them.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include record
-- include states
-- include expiry
-- include timer
-- include wake
-- include ties
-- include limits
-- include waiters
-- include garbage
local kind, name, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local list = named(kind, name)
local ids = redis.call('LRANGE', list, -n, -1)
local ended, limits = {}, nil
for at = #ids, 1, -1 do
  local found = read_fields(named('job', ids[at]), 'state', 'limits')
  if found[1] and not FINAL[found[1]] then
    break
  end
  limits = limits or read_limits(found[2])
  ended[#ended + 1] = { ids[at], found[1] }
end
if #ended == 0 then
  return 0
end
begin_writing()
redis.call('LTRIM', list, 0, -#ended - 1)
for _, item in ipairs(ended) do
  if not item[2] then
    bury_garbage(item[1], '', now_ms(), 'an id in a list without a record that can be read')
  else
    unlist(named('job', item[1]))
  end
end
local is_empty = redis.call('EXISTS', list) == 0
if kind == 'parked' and is_empty then
  redis.call('SREM', single('parked'), name)
elseif kind == 'lane' then
  local queue = string.match(name, '^[^\n]*')
  if redis.call('HINCRBY', single('laned'), queue, -#ended) <= 0 then
    redis.call('HDEL', single('laned'), queue)
  end
  if redis.call('HINCRBY', named('laned', queue), name, -#ended) <= 0 then
    redis.call('HDEL', named('laned', queue), name)
  end
  if is_empty then
    redis.call('ZREM', named('lanes', queue), name)
    leave_groups(name, queue, limits or {})
  end
end
return #ended
