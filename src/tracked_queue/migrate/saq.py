"""
SAQ: a JSON record for each job, a list of what is queued, the next one at its head, and a sorted set by due time of all that
have not ended; 0 there stands for those that are queued or run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..errors import UnreadableCallError
from . import holds
from .found import Found, Left

# KEYS: its record, the sorted set, the hold, the list it stands in. ARGV: the record as it was read, what the hold gets, '1'
# for one that stands in a list. The record itself is held, after its due time: SAQ may write a new job of the same key at once.
_CLAIM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[3] == '1' then
  if redis.call('LREM', KEYS[4], 1, KEYS[1]) == 0 then
    return 0
  end
else
  local due = redis.call('ZSCORE', KEYS[2], KEYS[1])
  if not due or tonumber(due) == 0 then
    return 0
  end
end
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
"""


class Saq:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
        stopped: All SAQ workers are stopped: take what a killed one was running, too.
    """

    name = "saq"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._stopped = client, stopped
        self._hold = f"saq:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        return sorted([
            key.decode().removeprefix("saq:").removesuffix(":incomplete")
            async for key in self._client.scan_iter("saq:*:incomplete", _type="zset")
        ])  # fmt: skip

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for held in await holds.held(self._client, self._hold):
            due, _, record = held.partition(b" ")
            yield _read(record, "", "", int(due), ("held", b"", record), claimed=True)
        for queue in queues:
            for key in await self._client.lrange(f"saq:{queue}:queued", 0, -1):
                yield await self._of(key, queue, 0, f"saq:{queue}:queued")
            for key, due in await self._client.zrangebyscore(f"saq:{queue}:incomplete", "(0", "inf", withscores=True):
                yield await self._of(key, queue, int(due * 1000), "")
            for key in await self._client.lrange(f"saq:{queue}:active", 0, -1):
                read = await self._of(key, queue, 0, f"saq:{queue}:active")
                if not self._stopped:
                    why = "a SAQ worker runs it: stop the workers, then run this with --workers-stopped"
                    read = Left(id=read.id, task=read.task, queue=queue, why=why)
                yield read

    async def _of(self, key: bytes, queue: str, due_ms: int, where: str) -> Found | Left:
        record = await self._client.get(key)
        name = key.decode("utf-8", "replace").removeprefix(f"saq:job:{queue}:")
        return _read(record, queue, name, due_ms, (where, key, record), claimed=False)

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        words = []
        for item in items:
            where, key, record = item.place
            keys = (key, f"saq:{item.queue}:incomplete", self._hold, where or f"saq:{item.queue}:queued")
            words.append(await self._client.eval(_CLAIM, 4, *keys, record, _held(item), "1" if where else "0"))
        return [word == 1 for word in words]

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        await holds.let_go(self._client, self._hold, [_held(item) for item in items])

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()


def _held(item: Found) -> bytes:
    held: bytes = b"%d %b" % (item.due_ms or 0, item.place[2])
    return held


def _read(record: bytes | None, queue: str, name: str, due_ms: int, place: Any, *, claimed: bool) -> Found | Left:
    task = ""
    try:
        if record is None:
            raise UnreadableCallError("its record is gone: nothing is left to move")
        call = msgspec.json.decode(record)
        task, name, queue = str(call["function"]), str(call["key"]), queue or str(call["queue"])
        if name.startswith("cron:"):
            raise UnreadableCallError("it is the next run of a CronJob: write @app.cron(...) above the task")
        if call.get("status") == "active" and not claimed and place is not None and not place[0].endswith(":active"):
            raise UnreadableCallError("a SAQ worker runs it: wait until it has ended")
        if call.get("status") in ("aborting", "aborted"):
            raise UnreadableCallError("it was aborted")
        return Found(
            id=f"{queue}:{name}", run=str(call.get("queued", "")), task=task, queue=queue, args=(),
            kwargs=dict(call.get("kwargs") or {}), due_ms=due_ms or None, place=place, claimed=claimed,
        )  # fmt: skip
    except UnreadableCallError as error:
        return Left(id=name, task=task, queue=queue, why=str(error))
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"it is no JSON of SAQ's ({type(error).__name__}: {error}); with a dump of your own, drain it with SAQ"
        return Left(id=name, task=task, queue=queue, why=why)
