-- is_full: whether the server is at maxmemory.  Asked before the first write: a command that would grow a key, and writes
-- nothing.
local function is_full()
  local reply = redis.pcall('SETRANGE', T .. ':nothing', 0, '')
  return type(reply) == 'table' and reply.err ~= nil and string.find(reply.err, 'OOM', 1, true) ~= nil
end
