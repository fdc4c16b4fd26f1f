-- suspects: jobs that may have killed their process. `suspected:<queue>` is their line, a zset of when each came into it;
-- `suspecting` is the set of queues that have one.  On a suspect's record: `pool`, the largest group that it may run in; `past`,
-- the longest that it had been running when its process died, in ms; `charges`, how often it was the only job of a process that
-- died; `deaths`, how often it was in one at all, which stays when it is acquitted.  The rule is in docs/explanation/blame.md.
-- A suspect with charges only has to be confirmed, so it lets others go first: by this many ms for each charge.
local CONFIRM_MS = 20000
local LAST_DEATHS, ENDLESS = 12, 4e15
local function unsuspend(id, queue)
  local line = named('suspected', queue)
  if redis.call('ZREM', line, id) == 1 and redis.call('EXISTS', line) == 0 then
    redis.call('SREM', single('suspecting'), queue)
  end
end
-- gate_of: how long a suspect must run, in ms, to be above suspicion when its process dies.  From its 12th death on, only
-- the end of the job clears it.
local function gate_of(past, deaths)
  return deaths >= LAST_DEATHS and ENDLESS or math.min(ENDLESS, 2 * past + 1000)
end
