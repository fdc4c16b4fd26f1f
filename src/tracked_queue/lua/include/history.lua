-- The history of a job that is not plain: fields `events`, how many there were, and `event:<n>`, of which the first 8 and the
-- last 24 are kept.  A plain job that succeeds at once has none; its times are on its record.
-- Each is MessagePack of a list: ms, kind, delivery and lease that it is about ('' for none), detail for people, ms of the start
-- (0 if it is not known).  Kinds: each outcome of settle but 'succeeded', 'recovered', 'late' (an outcome that came after the job
-- had gone to another delivery), and by whom: 'cancel', 'requeued', 'moved' (with the queue before) and 'rescheduled'.
local FIRST_EVENTS, LAST_EVENTS, MAX_DETAIL = 8, 24, 300
-- event_of: one more event, as fields and values for HSET.  events: the record's field of that name.
local function event_of(events, now, kind, delivery, lease, detail, started)
  local n = number_of(events)
  local slot = n < FIRST_EVENTS and n or FIRST_EVENTS + (n - FIRST_EVENTS) % LAST_EVENTS
  if #detail > MAX_DETAIL then
    detail = string.gsub(string.sub(detail, 1, MAX_DETAIL), '[\192-\255]?[\128-\191]*$', '')  -- no half of a character
  end
  return 'events', n + 1, 'event:' .. slot,
    cmsgpack.pack({ now, kind, delivery, lease, detail, started or 0 })
end
