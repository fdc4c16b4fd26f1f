-- constrain: takes a job's unique key, and adds its key, lane and limits to the fields and values for its record's HSET.
-- extras: those of its enqueue, or those that the worker worked out for it.  begun: whether it has been fetched, so that a key
-- that is held only until the start is free again.
local function constrain(id, extras, fields, begun)
  local n = #fields
  local function note(name, value)
    fields[n + 1], fields[n + 2] = name, value
    n = n + 2
  end
  local unique = extras.unique
  if unique then
    local key, until_what = unique[1], unique[2]
    if until_what == 'window' then
      redis.call('SET', named('unique', key), id, 'PX', unique[4])
    elseif until_what == 'done' or not begun then
      redis.call('SET', named('unique', key), id)
      note('unique', key)
      note('until', until_what)
    end
  end
  if extras.lane then
    note('lane', extras.lane)
  end
  if extras.limits then
    note('limits', cmsgpack.pack(extras.limits))
  end
end
