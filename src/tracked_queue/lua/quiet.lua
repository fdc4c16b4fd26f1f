-- quiet: tell an instance to fetch nothing more, or to fetch again.  Called by transitions.quiet.
--
-- KEYS[1]  tag
-- ARGV[1]  lease  text
-- ARGV[2]  on     '1' or '0'
-- Derived: instances, instance:<lease>, timer, wake_timer
--
-- Returns 'ok', or 'gone' for a lease that is revoked or not there (nothing written).
-- Keeps: after 'ok' with '1' no fetch of this lease takes a job, not even one that already stands behind a marker.
-- include keys
-- include number
-- include writable
-- include timer
local lease = ARGV[1]
local deadline = tonumber(redis.call('ZSCORE', single('instances'), lease))
if not deadline or deadline == 0 then
  return { 'gone' }
end
begin_writing()
redis.call('HSET', named('instance', lease), 'quiet', ARGV[2])
if ARGV[2] == '1' and redis.call('HGET', single('timer'), 'lease') == lease then
  call_timer(-1)
end
return { 'ok' }
