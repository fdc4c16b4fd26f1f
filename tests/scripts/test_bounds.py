"""
No script costs more where more of something is stored: each is called once beside a little and once beside a lot of it, and has to
make the same commands, and to move about as many bytes between Redis and its script.
"""

from __future__ import annotations

import hashlib

import pytest

from tests.harness import Scripts
from tests.stored import CALLS, THINGS, Setup
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.scripts import Script, load_scripts

# Both above every bound of a call (250 of most things, 300 looked at), so that a call beside either does all that one may.
LITTLE, MUCH = 1200, 2400
# Put before a script: counts its commands, and the bytes of their arguments and replies. A command that searches a list counts all of it.
METER = """
local redis = (function(plain)
  local searches = { LREM = true, LINSERT = true, LPOS = true }
  local function size_of(value)
    if type(value) ~= 'table' then
      return type(value) == 'string' and #value or 8
    end
    local size = 0
    for _, part in ipairs(value) do
      size = size + size_of(part)
    end
    return size
  end
  local function metered(verb, name, key, ...)
    local size = size_of({ key, ... }) + (searches[name] and 8 * plain.call('LLEN', key) or 0)
    local reply = plain[verb](name, key, ...)
    plain.call('HINCRBY', KEYS[1] .. ':meter', name, 1)
    plain.call('HINCRBY', KEYS[1] .. ':meter', 'bytes', size + size_of(reply))
    return reply
  end
  return setmetatable({
    call = function(...) return metered('call', ...) end,
    pcall = function(...) return metered('pcall', ...) end,
  }, { __index = plain })
end)(redis)
"""


def metered() -> dict[str, Script]:
    found = {}
    for name, script in load_scripts("now_ms_test").items():
        text = METER + script.text
        found[name] = Script(name, text, hashlib.sha1(text.encode()).hexdigest())
    return found


def costs(q: Scripts) -> dict[str, dict[str, int]]:
    """What each call does."""
    found = {}
    for name, call in CALLS.items():
        q.redis.delete(q.keys.single("meter"))
        call(q)
        meter = q.redis.hgetall(q.keys.single("meter"))
        found[name] = {what.decode(): int(count) for what, count in meter.items()}
    return found


@pytest.mark.parametrize("setup", THINGS, ids=lambda setup: setup.__name__)
def test_no_script_does_more_where_more_is_stored(server: RedisServer, namespace: str, setup: Setup) -> None:
    """CASE-80."""
    seen: list[dict[str, dict[str, int]]] = []
    scripts = metered()
    for at, n in enumerate((LITTLE, MUCH)):
        q = Scripts(server.url, f"{namespace}-{at}", scripts)
        try:
            setup(q, n)
            q.register("w")
            q.numbers["w"] = 0
            seen.append(costs(q))
        finally:
            q.redis.delete(*q.redis.keys(q.keys.tag.replace("{", "[{]") + ":*"))
            q.close()
    little, much = seen
    for name in CALLS:
        little_bytes, much_bytes = little[name].pop("bytes", 0), much[name].pop("bytes", 0)
        assert little[name] == much[name], (name, little[name], much[name])
        # Numbers and ids have more digits where there are more.
        assert much_bytes <= 1.1 * little_bytes + 300, (name, little_bytes, much_bytes)
