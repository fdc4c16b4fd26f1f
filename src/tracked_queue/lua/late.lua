-- late: note that deliveries of a lost lease have ended, so that anyone can see why a job ran twice.  Called by transitions.late.
--
-- KEYS[1]  tag
-- ARGV[1]  lease  text  that was lost
-- then 4 values per delivery, at most 70:
--   id        text
--   delivery  int   its number
--   outcome   word  its outcome, which changes nothing any more
--   ran       int   ms for which it ran
-- Derived: job:<id>
--
-- Returns how many were noted; those of a job without a record, or whose end is in the history already, are not.
-- include keys
-- include number
-- include now_ms
-- include writable
-- include record
-- include history
-- include ran
-- include late
local now, marks = now_ms(), {}
for at = 2, #ARGV, 4 do
  local id = ARGV[at]
  local mark = late_mark(id, ARGV[at + 1], ARGV[1], ARGV[at + 2], now, number_of(ARGV[at + 3]))
  if mark then
    marks[#marks + 1] = { named('job', id), mark }
  end
end
if #marks > 0 then
  begin_writing()
end
for _, mark in ipairs(marks) do
  redis.call('HSET', mark[1], unpack(mark[2]))
end
return #marks
