-- start_of_run: when a delivery's function began, by this clock.  Never before the delivery: ran_ms is rounded, and a clock can
-- go back.
local function start_of_run(delivery, ran_ms, now)
  return math.max(number_of(delivery), now - ran_ms)
end
