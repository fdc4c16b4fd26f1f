-- read_limits: a record's limits, each with name, kind ('concurrency' or 'rate'), most, ms and base_length (bytes of the name
-- without its key's value); nil if there are none, or if they can't be decoded, so that damage holds up no job.
local MOST_OF_LIMIT = 1e9
local function read_limits(packed)
  local ok, limits = pcall(cmsgpack.unpack, packed or '')
  if not ok or type(limits) ~= 'table' or #limits == 0 then
    return nil
  end
  local named_fields = {}
  for at, limit in ipairs(limits) do
    if type(limit) ~= 'table' or type(limit[1]) ~= 'string' or (limit[5] and type(limit[5]) ~= 'number')
      or number_of(limit[3]) < 1 or number_of(limit[3]) > MOST_OF_LIMIT or number_of(limit[4], -1) < 0 then
      return nil
    end
    named_fields[at] = { name = limit[1], kind = limit[2], most = limit[3], ms = limit[4], base_length = limit[5] }
  end
  return named_fields
end
-- read_ties: what is attached to a job: a waiter, a request to cancel it, a unique key that it holds, limits whose permits it may
-- hold, jobs that come after it, jobs whose results it wants.  tied: the record's field of that name; a plain job lacks
-- it, and costs no further read.
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
