-- follow: name further jobs that a job comes after, which did not fit into its enqueue.  Called by transitions.follow.
--
-- KEYS[1]  tag
-- ARGV[1]  id     text
-- ARGV[2]  from   int   how many were named before
-- ARGV[3]  wants  int   it wants the results of this many of these, from the first
-- ARGV[4]  last   '1' if these are the last, else '0'
-- ARGV[5..] id    text  at most 250 in all
-- Derived: job:<id>, followers:<id>, told:<id>, after:<id>, known:<id>, dependents, ended, scheduled, dead, timer, wake_timer,
--          queue:<q>, suspected:<q>, suspecting, lane:<lane>, lanes:<q>, laned, laned:<q>, wake:<q>, wake_suspects:<q>,
--          unique:<key>, paused, stats:<minute>, queues, ends:<q>
--
-- Returns one word, or for 'unknown' two:
--   'ok'            noted; after the last ones it is decided whether the job waits
--   'again'         these were named before, or it does not gather any more: it is complete, or has ended; nothing written
--   'unknown', id   that job has no record, is untracked, or is this job itself; this job has ended 'failed'.  A resend returns
--                   the same
-- Refuses: a full Redis (OOM), before the first write.
-- Keeps: nothing is decided about a job until its last portion; one whose enqueue stops halfway ends 'failed' after an hour (see
-- lua/include/tend.lua).
-- include keys
-- include number
-- include now_ms
-- include paused
-- include wake
-- include waiters
-- include record
-- include states
-- include ties
-- include timer
-- include lanes
-- include push
-- include ends
-- include ended
-- include stats
-- include expiry
-- include after
-- include followers
local id, from, wants, is_last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local now, paused = now_ms(), read_paused()
local follower = read_follower(id)
local found = read_fields(follower.job, 'named', 'missing')
local named_before = number_of(found[1])
if found[2] then
  return { 'unknown', found[2] }
end
if follower.state ~= 'waiting' or not follower.gathering or named_before ~= from then
  return { 'again' }
end
local after = {}
for at = 5, #ARGV do
  after[#after + 1] = ARGV[at]
end
-- It can't come after itself; a longer ring of jobs that wait for one another is the caller's affair.
local back, missing = look_back(after, { [id] = '0' }, {})
if not back then
  redis.call('HSET', follower.job, 'missing', missing)
  end_gathering(follower, 'it was to come after job ' .. missing .. ', of which there is no record', now, paused)
  return { 'unknown', missing }
end
link(id, back, wants)
if wants > 0 then
  follower.ties.wants = '1'
end
redis.call('HSET', follower.job, 'named', from + #after)
note_ends(follower, #back.open - (is_last and 1 or 0), back.failed, #back.revive)
if is_last then
  redis.call('HDEL', follower.job, 'gathering')
  redis.call('ZREM', single('scheduled'), '\2' .. id)
  follower.gathering = nil
end
decide(follower, FAILED, now, paused)
write_ends()
return { 'ok' }
