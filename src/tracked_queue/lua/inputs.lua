-- inputs: the results of the jobs that one comes after, in their order.  Called by transitions.inputs.
--
-- KEYS[1]  tag
-- ARGV[1]  id  text
-- Derived: job:<id>
--
-- Returns one value for each: its encoded result, '' where there is none.  Writes nothing.
-- include keys
-- include number
local job = named('job', ARGV[1])
local reply = {}
for at = 1, math.min(number_of(redis.call('HGET', job, 'inputs')), 1000) do
  reply[at] = redis.call('HGET', job, 'in:' .. at) or ''
end
return reply
