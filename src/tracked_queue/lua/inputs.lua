-- inputs: the results of the jobs that one comes after, in their order.  Called by transitions.inputs.
--
-- KEYS[1]  tag
-- ARGV[1]  id  text
-- Derived: job:<id>
--
-- Returns one value for each: its encoded result, '' where there is none.  Writes nothing.
-- include keys
local job = named('job', ARGV[1])
local reply = {}
for at = 1, tonumber(redis.call('HGET', job, 'inputs') or '0') do
  reply[at] = redis.call('HGET', job, 'in:' .. at) or ''
end
return reply
