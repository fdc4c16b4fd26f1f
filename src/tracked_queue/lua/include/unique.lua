-- live_holder: the job that holds a unique key: its id, its state and whether it has begun; or nil.  A key counts as held only if
-- that job's record exists, has not ended, and names the key; but a key for a window of time is held until it expires.
-- Between two attempts a job is queued just like one that has not begun; its ledgers show the difference.
local function live_holder(key, until_what)
  local id = redis.call('GET', named('unique', key))
  if not id then
    return nil
  end
  local found = read_fields(named('job', id), 'state', 'unique', 'attempts', 'interruptions', 'recoveries', 'snoozes')
  local has_begun = found[1] == 'active'
  for at = 3, 6 do
    has_begun = has_begun or number_of(found[at]) > 0
  end
  if until_what == 'window' then
    return id, found[1] or 'gone', has_begun
  end
  if found[2] == key and found[1] and not FINAL[found[1]] then
    return id, found[1], has_begun
  end
  return nil
end
