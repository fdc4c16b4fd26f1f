-- AHEAD_MS: how far ahead of the server's clock a tick may be, since the client's clock may differ from it.
local AHEAD_MS = 5000
