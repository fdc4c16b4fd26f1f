-- delete: remove what ended jobs carried, at a person's request.  Called by transitions.delete.
--
-- KEYS[1]  tag
-- ARGV[1]  window  int   ms for which an ended job's id stays known at least, so that an enqueue that is sent again adds nothing
-- ARGV[2..] id     text  at most 70
-- Derived: job:<id>
--
-- Returns one word per job:
--   'ok'         its arguments, result, errors, history and everything else that it carried are gone, and for who asks for its
--                result it is gone; its id, task and state go after `window`, or as before where its place in a list or another
--                job still needs them.  While its id is in a list its lane and limits stay, with their keys' values
--   'wanted'     a job that comes after it has yet to read its result; nothing written
--   'not_ended'  it may still run or come back; nothing written
--   'dead'       it is dead (see purge); nothing written
--   'gone'       no record; nothing written
-- include keys
-- include number
-- include record
-- include writable
-- include states
-- include expiry
local window = tonumber(ARGV[1])
local CARRIED = { 'args', 'kwargs', 'options', 'result', 'error', 'error:0', 'error:1', 'error:2', 'error:3', 'reason',
  'checkpoint', 'progress', 'events', 'lines', 'trace', 'failed_by', 'failed_ms', 'failures',
  'left_out', 'unique', 'until', 'after' }
for slot = 0, 31 do
  CARRIED[#CARRIED + 1] = 'event:' .. slot
end
for line = 0, 99 do
  CARRIED[#CARRIED + 1] = 'line:' .. line
end
local words, jobs = {}, {}
for at = 2, #ARGV do
  local job = named('job', ARGV[at])
  local found = read_fields(job, 'state', 'holds', 'revives', 'listed')
  if not found[1] then
    words[#words + 1] = 'gone'
  elseif found[1] == 'dead' then
    words[#words + 1] = 'dead'
  elseif not FINAL[found[1]] or may_revive(found[1], found[3]) then
    words[#words + 1] = 'not_ended'
  elseif found[2] then
    words[#words + 1] = 'wanted'
  else
    words[#words + 1] = 'ok'
    jobs[#jobs + 1] = { job, found[4] }
  end
end
begin_writing()
for _, found in ipairs(jobs) do
  local job, listed = unpack(found)
  redis.call('HSET', job, 'deleted', '1')
  redis.call('HDEL', job, unpack(CARRIED))
  if not listed then
    redis.call('HDEL', job, 'lane', 'limits')
  end
  local left = redis.call('PTTL', job)
  if left > window then
    redis.call('PEXPIRE', job, window)
  end
end
return words
