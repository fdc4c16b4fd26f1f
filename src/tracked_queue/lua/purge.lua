-- purge: remove dead jobs for good, at a person's request.  Called by transitions.purge.
--
-- KEYS[1]  tag
-- ARGV     id  text  at most 70
-- Derived: job:<id>, dead, followers:<id>, told:<id>, after:<id>, ended
--
-- Returns one word per job: 'ok', 'not_dead' (nothing written), or 'gone' (no record).
-- include keys
-- include record
-- include writable
-- include waiters
local words = {}
for at = 1, #ARGV do
  local state = read_fields(named('job', ARGV[at]), 'state')[1]
  words[at] = state == 'dead' and 'ok' or (state and 'not_dead' or 'gone')
end
begin_writing()
for at = 1, #ARGV do
  if words[at] ~= 'not_dead' then
    redis.call('ZREM', single('dead'), ARGV[at])
    if words[at] == 'ok' then
      redis.call('DEL', named('job', ARGV[at]))
    end
    tell_followers(ARGV[at])
  end
end
return words
