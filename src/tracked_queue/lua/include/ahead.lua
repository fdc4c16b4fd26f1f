-- AHEAD_MS: no tick is later than the server's clock, but for what the two sides' clocks differ by.
local AHEAD_MS = 5000
