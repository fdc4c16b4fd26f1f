-- act: record what a person, or a program on a person's behalf, has done to jobs and instances.  Called by transitions.act.
--
-- KEYS[1]  tag
-- ARGV[1]  by      text   who
-- ARGV[2]  action  text   'requeue', 'pause', ...
-- ARGV[3]  facts   text   JSON of a map: to what, how many, with which result
-- Derived: acts
--
-- Returns 'ok'.  The last ACTS are kept, the newest first, each as MessagePack of a list: ms, by, action, facts.  Run twice, it
-- records the act twice.
-- include keys
-- include now_ms
-- include writable
local ACTS = 500
local now = now_ms()
begin_writing()
redis.call('LPUSH', single('acts'), cmsgpack.pack({ now, ARGV[1], ARGV[2], ARGV[3] }))
redis.call('LTRIM', single('acts'), 0, ACTS - 1)
return { 'ok' }
