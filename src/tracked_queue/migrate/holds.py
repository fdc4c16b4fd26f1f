"""Taking single elements out of lists and sorted sets of another queue, into a list of ours, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HOLD = "tracked_queue-migration"

# KEYS: the hold, and the key of each. ARGV, three for each: the key's kind, the element, and what the hold gets for it.
_CLAIM = """
local words = {}
for at = 2, #KEYS do
  local kind, element, held = ARGV[at * 3 - 5], ARGV[at * 3 - 4], ARGV[at * 3 - 3]
  local was = 0
  if kind == 'list' then
    was = redis.call('LREM', KEYS[at], -1, element)
  elseif kind == 'head' then
    was = redis.call('LREM', KEYS[at], 1, element)
  elseif kind == 'zset' then
    was = redis.call('ZREM', KEYS[at], element)
  elseif kind == 'hash' then
    was = redis.call('HDEL', KEYS[at], element)
  elseif kind == 'set' then
    was = redis.call('SREM', KEYS[at], element)
  end
  if was == 1 then
    redis.call('LPUSH', KEYS[1], held)
  end
  words[#words + 1] = was
end
return words
"""


async def claim(client: Any, hold: str, wanted: Sequence[tuple[str, str, bytes | str, bytes | str]]) -> list[bool]:
    """
    Move elements into the list `hold`.

    Args:
        wanted: key, its kind (`list` from its tail, `head` from its head, `zset`, `set`, `hash`), element, and what is held.

    Returns:
        For each whether it was still there.
    """
    if not wanted:
        return []
    keys = [hold, *(key for key, *_ in wanted)]
    values = [value for _, *rest in wanted for value in rest]
    words = await client.eval(_CLAIM, len(keys), *keys, *values)
    return [word == 1 for word in words]


async def held(client: Any, hold: str) -> list[bytes]:
    """What earlier runs have claimed, the oldest first."""
    found: list[bytes] = await client.lrange(hold, 0, -1)
    return found[::-1]


async def let_go(client: Any, hold: str, elements: Sequence[bytes | str]) -> None:
    """These are dealt with."""
    if elements:
        async with client.pipeline(transaction=True) as pipe:
            for element in elements:
                pipe.lrem(hold, -1, element)
            await pipe.execute()
