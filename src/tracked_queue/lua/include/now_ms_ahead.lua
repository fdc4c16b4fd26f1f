-- now_ms: the server's clock plus an offset in ms: how a chaos run lets the clock jump.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + (tonumber(redis.call('GET', KEYS[1] .. ':clock') or 0))
end
local function digits(number)
  return string.format('%.0f', number)
end
