-- suspects: jobs that may have killed their process. `suspected:<queue>` is their line, a zset of when each came into it;
-- `suspecting` the set of queues that have one.  On a suspect's record: `pool`, in how large a group it may run; `past`, the
-- longest that it had run at one of its deaths, in ms; `charges`, deaths as the only job of its process.  `deaths`, those that
-- it was in at all, stays when it is acquitted.  The rule is in docs/explanation/blame.md.
-- A suspect with charges has only to be confirmed: it lets others go first, for this many ms a charge.
local CONFIRM_MS = 20000
local LAST_DEATHS, ENDLESS = 12, 4e15
local function unsuspend(id, queue)
  local line = named('suspected', queue)
  if redis.call('ZREM', line, id) == 1 and redis.call('EXISTS', line) == 0 then
    redis.call('SREM', single('suspecting'), queue)
  end
end
-- gate_of: how long a suspect must run, in ms, to be above suspicion when its process dies.  From its 12th death on it has to
-- end.
local function gate_of(past, deaths)
  return deaths >= LAST_DEATHS and ENDLESS or math.min(ENDLESS, 2 * past + 1000)
end
