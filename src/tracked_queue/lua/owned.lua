-- owned: ids in an instance's processing list with their delivery numbers.  Called by transitions.owned.
--
-- KEYS[1]  tag
-- ARGV[1]  lease  text
-- Derived: processing:<lease>, job:<id>
--
-- Returns id, delivery pairs, at most 400 (any 400 if there are more); delivery '' where there is no record.  Writes nothing.
-- include keys
-- include record
local reply = {}
for _, id in ipairs(redis.call('SRANDMEMBER', named('processing', ARGV[1]), 400)) do
  reply[#reply + 1] = id
  reply[#reply + 1] = read_fields(named('job', id), 'delivery')[1] or ''
end
return reply
