-- layout: agree on the number of shards of a namespace, or move it to the next step of a change.  Called by transitions.layout.
--
-- KEYS[1]  tag of the namespace, without a shard's number
-- ARGV[1]  was   text  the value it must have now for the change to be made; '' only reads it, or sets it if there is none yet
-- ARGV[2]  next  text  a number of shards; or 'old>new' while a change is under way, when nobody but the changer may write jobs
-- Derived: shards, queues, instances
--
-- Returns one word: the value it has now, which is `next` if this call set it.
-- Keeps: a namespace that was in use before shards were introduced has one shard.
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
