-- number_of: a record's field as a whole number; anything else that was written there counts as the default, so that a damaged
-- record stops no other job.
local function number_of(text, default)
  local number = tonumber(text or nil)
  if number and number > -9e15 and number < 9e15 then
    return math.floor(number)
  end
  if default == nil then
    return 0
  end
  return default
end
