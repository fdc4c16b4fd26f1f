-- read_protocol: the protocol in which this shard is written, or nil.  What something else wrote there counts as nothing, and is
-- replaced.
local function read_protocol()
  local text = redis.pcall('GET', single('protocol'))
  local number = type(text) == 'string' and number_of(text) or 0
  return number > 0 and number or nil
end
