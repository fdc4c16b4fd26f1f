-- bury_garbage: an id in a list that has no record (lost, or never ours) becomes a dead job that shows what was found.
-- Its name is kept where it is a plain one, and no foreign key has it; else the dead job is called by the hash of the
-- bytes.
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
