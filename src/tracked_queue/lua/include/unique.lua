-- live_holder: who holds a unique key: its id and state, or nil.  A key counts as held only if that job's record exists, has not
-- ended, and names the key; one that is held for a window of time, by nothing but its own expiry.
local function live_holder(key, until_what)
  local id = redis.call('GET', named('unique', key))
  if not id then
    return nil
  end
  local found = read_fields(named('job', id), 'state', 'unique')
  if until_what == 'window' then
    return id, found[1] or 'gone'
  end
  if found[2] == key and found[1] and not FINAL[found[1]] then
    return id, found[1]
  end
  return nil
end
