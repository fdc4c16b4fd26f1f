-- count: adds to the counters of this minute; they expire by themselves.
local STATS_MS = 7200000
local function count(now, what, queue, n)
  local stats = named('stats', string.format('%.0f', math.floor(now / 60000)))
  -- A counter's first number: only then can the key be new.
  if redis.call('HINCRBY', stats, what .. ':' .. queue, n) == n then
    redis.call('PEXPIRE', stats, STATS_MS)
  end
end
