-- inputs: read some of the results that a job wants from the jobs before it, in their order.  Called by transitions.inputs.
--
-- KEYS[1]  tag
-- ARGV[1]  id         text
-- ARGV[2]  from       int  how many of them the caller has already
-- ARGV[3]  max_bytes  int  of results in one reply; one always fits
-- Derived: after:<id>, job:<id>
--
-- Returns left ('1' if there are more), then one value for each, at most 250: its encoded result, '' where there is none.
-- Writes nothing.
-- include keys
-- include record
local MOST = 250
local from, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local ids = redis.call('LRANGE', named('after', ARGV[1]), from, from + MOST)
local reply, bytes = { '0' }, 0
for at, id in ipairs(ids) do
  local size = size_of_field(named('job', id), 'result')
  if at > MOST or at > 1 and bytes + size > max_bytes then
    reply[1] = '1'
    break
  end
  bytes = bytes + size
  reply[at + 1] = size > 0 and read_fields(named('job', id), 'result')[1] or ''
end
return reply
