-- late_mark: a list of fields and values that note on a job's record that a delivery ended after the job had gone to another one;
-- else nobody could explain why the job ran twice.  nil for a job without a record, for a delivery that has settled (its reply
-- was lost), and for one whose end is in the history already (a resend of that one is answered 'fenced' too).
local function late_mark(id, delivery, lease, outcome, now, ran_ms)
  local names = { 'events', 'state', 'delivery' }
  for slot = 0, FIRST_EVENTS + LAST_EVENTS - 1 do
    names[#names + 1] = 'event:' .. slot
  end
  local found = read_fields(named('job', id), unpack(names))
  if not found[2] or found[3] == '-' .. delivery then
    return nil
  end
  for at = 4, #names do
    local ok, event = pcall(cmsgpack.unpack, found[at] or '')
    if ok and type(event) == 'table' and event[3] == delivery and event[2] ~= 'recovered' and event[2] ~= 'cancel' then
      return nil
    end
  end
  local started = ran_ms and start_of_run(delivery, ran_ms, now)
  return { event_of(found[1], now, 'late', delivery, lease, outcome, started) }
end
