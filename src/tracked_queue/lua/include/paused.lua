-- read_paused: the set of 'queue:<name>' and 'task:<name>' that are paused, as a table.
local function read_paused()
  local paused = {}
  for _, what in ipairs(redis.call('SMEMBERS', single('paused'))) do
    paused[what] = true
  end
  return paused
end
