-- now_ms: a clock that tests control, joined in place of the server's.
local function now_ms()
  return tonumber(redis.call('GET', KEYS[1] .. ':clock'))
end
local function digits(number)
  return string.format('%.0f', number)
end
