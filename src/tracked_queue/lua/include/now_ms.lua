-- now_ms: the server's clock in ms.  Clients' clocks are never compared.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
-- digits: a whole number as text.  Made once for many uses, since a number would be formatted anew each time.
local function digits(number)
  return string.format('%.0f', number)
end
