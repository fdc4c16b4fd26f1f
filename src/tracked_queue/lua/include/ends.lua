-- The last ends of a queue's jobs, so that those jobs can be listed while their records exist: '<ms> <state> <id>', the newest
-- first, at most ENDS.  Of the successes of one call there are at most MOST_WELL, so those of a busy queue are a sample.
-- note_end: adds one; write_ends: writes those of this call, to be called before it returns.
local note_end, write_ends
do
  local ENDS, MOST_WELL, KEPT_ENDS_MS = 500, 25, 259200000
  local well = 0
  local ends, some_ends = {}, false
  local last_state, prefix
  note_end = function(queue, now_text, state, id)
    if state == 'succeeded' then
      if well == MOST_WELL then
        return
      end
      well = well + 1
    end
    local of_queue = ends[queue]
    if not of_queue then
      of_queue = {}
      ends[queue], some_ends = of_queue, true
    end
    if state ~= last_state then
      last_state, prefix = state, now_text .. ' ' .. state .. ' '
    end
    of_queue[#of_queue + 1] = prefix .. id
  end
  write_ends = function()
    if not some_ends then
      return
    end
    for queue, of_queue in pairs(ends) do
      local key = named('ends', queue)
      if redis.call('LPUSH', key, unpack(of_queue)) > ENDS then
        redis.call('LTRIM', key, 0, ENDS - 1)
      end
      redis.call('PEXPIRE', key, KEPT_ENDS_MS)
    end
  end
end
