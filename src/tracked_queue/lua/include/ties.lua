-- read_limits: a record's limits as a list, or nil; what doesn't decode holds nobody up.
local MOST_OF_LIMIT = 1e9
local function read_limits(packed)
  local ok, limits = pcall(cmsgpack.unpack, packed or '')
  if not ok or type(limits) ~= 'table' or #limits == 0 then
    return nil
  end
  for _, limit in ipairs(limits) do
    if type(limit) ~= 'table' or type(limit[1]) ~= 'string' or (limit[5] and type(limit[5]) ~= 'number')
      or number_of(limit[3]) < 1 or number_of(limit[3]) > MOST_OF_LIMIT or number_of(limit[4], -1) < 0 then
      return nil
    end
  end
  return limits
end
-- read_ties: what hangs on a record beside the job itself: a waiter, a wish to cancel, a unique key that it holds, limits
-- whose permits it may hold, jobs that come after it, jobs whose results it wants.  tied: the record's field of that name; a
-- plain job has none, and costs no further read.
local FREE = {}
local function read_ties(id, job, tied)
  if not tied then
    return FREE
  end
  local found = read_fields(job, 'waiter', 'cancel', 'unique', 'limits', 'followed', 'keep_ms', 'wants')
  local ties = { waiter = found[1], cancel = found[2], limits = read_limits(found[4]),
    followed = found[5], keep_ms = number_of(found[6]), wants = found[7] }
  if found[3] and redis.call('GET', named('unique', found[3])) == id then
    ties.unique = found[3]
  end
  return ties
end
