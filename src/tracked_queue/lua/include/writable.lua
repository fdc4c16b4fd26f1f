-- begin_writing: a script that must go through on a full Redis (noeviction) calls this before its first write.
-- The server refuses a script's growing writes at maxmemory only while the script has not written anything; a
-- DEL of a key that is never there counts as a write (6.2, 7.0 and 8.2; tests/redis/test_scripts_at_limits.py).
local function begin_writing()
  redis.call('DEL', T .. ':nothing')
end
