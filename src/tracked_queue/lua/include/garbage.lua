-- bury_garbage: turns an id in a list, but without a record (lost, or never ours), into a dead job that shows what was found.
-- The dead job keeps that id if it is a plain name that no foreign key has; else its id is made from a hash of the bytes.
local MAX_RAW = 1024
local function bury_garbage(raw, queue, now, reason)
  local id = raw
  local kind = redis.call('TYPE', named('job', raw)).ok
  if #raw == 0 or #raw > 256 or string.find(raw, '[^%w%-_%.:]') or (kind ~= 'none' and kind ~= 'hash') then
    id = 'garbage:' .. redis.sha1hex(raw)
  end
  redis.call('HSET', named('job', id), 'state', 'dead', 'queue', queue, 'finished_ms', now, 'reason', reason,
    'raw', string.sub(raw, 1, MAX_RAW))
  redis.call('ZADD', single('dead'), now, id)
  tell_followers(raw)
  return id
end
