"""
The clock of a chaos run's servers: the machine's clock plus an offset that jumps.

Not every server can be started under a tool that fakes the clock of a whole process, so the scripts of a run add the
offset in the key `clock`. Expiries move with it: for a server they are absolute times, so a jump of the clock changes
how much of them is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..app import TrackedQueue, connections_of

# How far ahead of the machine's the clock may be. Records are kept for longer than between any two of them.
JUMPS_S = (-86_400, -3600, -60, 0, 60, 3600, 86_400)
_JUMP = """
local clock = KEYS[1] .. ':clock'
local by = tonumber(ARGV[1]) - tonumber(redis.call('GET', clock) or 0)
local cursor, left = '0', {}
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[2], 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    left[key] = redis.call('PTTL', key)
  end
until cursor == '0'
for key, ms in pairs(left) do
  if ms >= 0 then
    redis.call('PEXPIRE', key, ms - by)
  end
end
redis.call('SET', clock, ARGV[1])
"""


def go_by_it(app: TrackedQueue) -> None:
    """Let the scripts of an app that is not open yet go by this clock."""
    connections_of(app).use(app.settings, "now_ms_ahead")


async def set_clock(client: Any, tags: Sequence[str], ahead_s: float) -> None:
    """Let the clock of these namespaces jump to `ahead_s` seconds ahead of the machine's."""
    head = "if redis.replicate_commands then redis.replicate_commands() end\n"
    for tag in tags:
        await client.eval(head + _JUMP, 1, tag, round(ahead_s * 1000), tag.replace("{", "[{]") + ":*")
