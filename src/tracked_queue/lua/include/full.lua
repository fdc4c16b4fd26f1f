-- is_full: whether the server is at maxmemory.  Call it before the first write.  It tries a command that counts as growing a key
-- but writes nothing.
local function is_full()
  local reply = redis.pcall('SETRANGE', T .. ':nothing', 0, '')
  return type(reply) == 'table' and reply.err ~= nil and string.find(reply.err, 'OOM', 1, true) ~= nil
end
