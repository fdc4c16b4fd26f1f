-- delete: remove what ended jobs carried, at a person's request.  Called by transitions.delete.
--
-- KEYS[1]  tag
-- ARGV[1]  window  int   ms for which an ended job's id stays known at least, so that an enqueue that is sent again adds nothing
-- ARGV[2..] id     text  at most 70
-- Derived: job:<id>
--
-- Returns one word per job:
--   'ok'         its arguments, result, errors, history and everything else that it carried are gone; its id, task and state go
--                after `window`, or as before where its place in a list or another job still needs them
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
  'checkpoint', 'progress', 'events', 'lines', 'trace', 'failed_by' }
for slot = 0, 31 do
  CARRIED[#CARRIED + 1] = 'event:' .. slot
end
for line = 0, 99 do
  CARRIED[#CARRIED + 1] = 'line:' .. line
end
local words, jobs = {}, {}
for at = 2, #ARGV do
  local job = named('job', ARGV[at])
  local found = read_fields(job, 'state', 'holds', 'revives')
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
    jobs[#jobs + 1] = job
  end
end
begin_writing()
for _, job in ipairs(jobs) do
  redis.call('HDEL', job, unpack(CARRIED))
  local left = redis.call('PTTL', job)
  if left > window then
    redis.call('PEXPIRE', job, window)
  end
end
return words
