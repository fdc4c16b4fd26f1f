-- number_of: a whole number out of a record's field; what something else wrote there counts as the default, so that one damaged
-- record stops nobody.
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
