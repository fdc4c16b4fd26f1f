-- layout: agree on the number of shards of a namespace, or move it to the next step of a change.  Called by transitions.layout.
--
-- KEYS[1]  tag of the namespace, without a shard's number
-- ARGV[1]  was   text  what it must be for the change; '' asks only, and sets it where there is none yet
-- ARGV[2]  next  text  a number of shards; or 'old>new' while a change is under way, when nobody but the changer may write jobs
-- Derived: shards, queues, instances
--
-- Returns one word: what it is now: 'next' if this call set it.
-- Keeps: a namespace that was used before there were several shards has one.
-- include keys
-- include writable
local was, wanted = ARGV[1], ARGV[2]
local found = redis.call('GET', single('shards'))
if not found and redis.call('EXISTS', single('queues'), single('instances')) > 0 then
  found = '1'
end
if found == wanted then
  return { found }
end
if (was == '' and found) or (was ~= '' and found ~= was) then
  return { found or '' }
end
begin_writing()
redis.call('SET', single('shards'), wanted)
return { wanted }
