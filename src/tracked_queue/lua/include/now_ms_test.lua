-- now_ms: a steered clock for tests, joined in place of the server's.
local function now_ms()
  return tonumber(redis.call('GET', KEYS[1] .. ':clock'))
end
local function digits(number)
  return string.format('%.0f', number)
end
