"""arq: a sorted set of ids by due time, where a running one stays, and a pickle for each job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..errors import UnreadableCallError
from . import holds, pickles
from .found import Found, Left

# As an arq worker claims a job: with the mark that its workers watch, so that one that looks at this moment gives way.
# KEYS: the sorted set, the hold, the mark, its payload, the payload that is held. ARGV: id, the payload as it was read, what
# the hold gets. The payload goes along: arq may write another one of the same id at once.
_CLAIM = """
if redis.call('GET', KEYS[4]) ~= ARGV[2] then
  return 0
end
if redis.call('EXISTS', KEYS[3]) == 1 or redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('SET', KEYS[3], '1', 'PX', 60000)
redis.call('RENAME', KEYS[4], KEYS[5])
redis.call('PERSIST', KEYS[5])
redis.call('LPUSH', KEYS[2], ARGV[3])
return 1
"""


class Arq:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
    """

    name = "arq"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._stopped = client, stopped
        self._hold = f"arq:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        found = [key.decode() async for key in self._client.scan_iter("arq:queue*", _type="zset")]
        return sorted(found)

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for held in await holds.held(self._client, self._hold):
            due, run, id = held.split(b" ", 2)
            key = self._held_key(id.decode("utf-8", "replace"), run.decode())
            yield await self._read(id, "", int(due), ("held", ""), claimed=True, key=key)
        for queue in queues:
            for id, due in await self._client.zrange(queue, 0, -1, withscores=True):
                if await self._client.exists(f"arq:in-progress:{id.decode()}"):
                    why = "an arq worker runs it: wait until it has ended, or for its mark to expire"
                    yield Left(id=id.decode(), task="", queue=queue, why=why)
                else:
                    yield await self._read(id, queue, int(due), ("zset", queue), claimed=False)

    async def _read(
        self, id: bytes, queue: str, due_ms: int, place: Any, *, claimed: bool, key: str = ""
    ) -> Found | Left:
        name, task = id.decode("utf-8", "replace"), ""
        try:
            data = await self._client.get(key or f"arq:job:{name}")
            if data is None:
                raise UnreadableCallError("its record has expired (arq's expires): nothing is left to move")
            call = pickles.read(data)
            if not isinstance(call, dict) or not isinstance(call.get("f"), str):
                raise UnreadableCallError(
                    "its payload is not arq's; with job_serializer of your own, drain it with arq"
                )
            task = call["f"]
            return Found(
                id=name, run=str(call.get("et", "")), task=task, queue=queue, args=tuple(call.get("a") or ()),
                kwargs=dict(call.get("k") or {}), due_ms=due_ms, place=(*place, data), claimed=claimed,
            )  # fmt: skip
        except UnreadableCallError as error:
            return Left(id=name, task=task, queue=queue, why=str(error))
        except (ValueError, TypeError) as error:
            return Left(id=name, task=task, queue=queue, why=f"it can't be read: {error}")

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        words = []
        for item in items:
            _, queue, data = item.place
            keys = (
                queue,
                self._hold,
                f"arq:in-progress:{item.id}",
                f"arq:job:{item.id}",
                self._held_key(item.id, item.run),
            )
            given = (item.id, data, self._held(item))
            words.append(await self._client.eval(_CLAIM, 5, *keys, *given))
        return [word == 1 for word in words]

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        for item in items:
            own = (f"arq:in-progress:{item.id}", f"arq:retry:{item.id}")
            await self._client.delete(self._held_key(item.id, item.run), *own)
        await holds.let_go(self._client, self._hold, [self._held(item) for item in items])

    def _held(self, item: Found) -> str:
        return f"{item.due_ms} {item.run} {item.id}"

    def _held_key(self, id: str, run: str) -> str:
        return f"{self._hold}:{id}:{run}"

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()
