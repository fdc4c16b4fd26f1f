"""RQ: a list of ids for each queue, the next one at its head, and a hash for each job; delayed ones in a sorted set."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..errors import UnreadableCallError
from . import holds, pickles
from .found import Found, Left

# KEYS: its record, where it stands, the hold, the record that is held. ARGV: the kind of the place, what stands there, the data
# and the time of the record as they were read, what the hold gets, when it is due. The record goes along: RQ may write another
# one of the same id at once.
_CLAIM = """
if redis.call('HGET', KEYS[1], 'data') ~= ARGV[3] or (redis.call('HGET', KEYS[1], 'created_at') or '') ~= ARGV[4] then
  return 0
end
local was
if ARGV[1] == 'head' then
  was = redis.call('LREM', KEYS[2], 1, ARGV[2])
else
  was = redis.call('ZREM', KEYS[2], ARGV[2])
end
if was == 0 then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[4])
redis.call('PERSIST', KEYS[4])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[4], 'tracked_queue_due', ARGV[6])
end
redis.call('LPUSH', KEYS[3], ARGV[5])
return 1
"""


class Rq:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
        stopped: All RQ workers are stopped: take what a killed one was running, too.
    """

    name = "rq"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._stopped = client, stopped
        self._hold = f"rq:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        return sorted(key.decode().removeprefix("rq:queue:") for key in await self._client.smembers("rq:queues"))

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for held in await holds.held(self._client, self._hold):
            id = held.removeprefix(f"{self._hold}:".encode()).rpartition(b":")[0]
            yield await self._read(id, "", None, claimed=True, record_key=held)
        for queue in queues:
            for id in await self._client.lrange(f"rq:queue:{queue}", 0, -1):
                yield await self._read(id, queue, ("head", f"rq:queue:{queue}", id), claimed=False)
            for id, due in await self._client.zrange(f"rq:scheduled:{queue}", 0, -1, withscores=True):
                yield await self._read(
                    id, queue, ("zset", f"rq:scheduled:{queue}", id), claimed=False, due_ms=int(due * 1000)
                )
            for name, why in (
                ("deferred", "it waits for another job: let RQ's workers finish both"),
                ("failed", "it has failed: requeue it with rq first if it is to run again"),
            ):
                for id in await self._client.zrange(f"rq:{name}:{queue}", 0, -1):
                    yield Left(id=id.decode(), task="", queue=queue, why=why)
            for member in await self._client.zrange(f"rq:wip:{queue}", 0, -1):
                id = member.split(b":")[0]
                if self._stopped:
                    yield await self._read(id, queue, ("zset", f"rq:wip:{queue}", member), claimed=False)
                else:
                    why = "an RQ worker runs it: stop the workers, then run this with --workers-stopped"
                    yield Left(id=id.decode(), task="", queue=queue, why=why)

    async def _read(
        self, id: bytes, queue: str, place: Any, *, claimed: bool, due_ms: int | None = None, record_key: bytes = b""
    ) -> Found | Left:
        name = id.decode("utf-8", "replace")
        record = await self._client.hgetall(record_key or f"rq:job:{name}")
        task = ""
        try:
            if not record:
                raise UnreadableCallError("its record is gone (RQ's ttl): nothing is left to move")
            if record.get(b"dependency_ids") or record.get(b"dependency_id"):
                raise UnreadableCallError("it waits for another job: let RQ's workers finish both")
            task, instance, args, kwargs = _call(record.get(b"data", b""))
            if instance is not None:
                raise UnreadableCallError("it calls a method of an object: make it a function")
            if due_ms is None and claimed and record.get(b"tracked_queue_due"):
                due_ms = int(record[b"tracked_queue_due"])
            return Found(
                id=name, run=_moment(record.get(b"created_at")), task=str(task),
                queue=queue or record.get(b"origin", b"").decode(),
                args=tuple(args), kwargs=dict(kwargs), due_ms=due_ms, claimed=claimed,
                place=(*(place or ("held", "", "")), record[b"data"], record.get(b"created_at", b"")),
            )  # fmt: skip
        except UnreadableCallError as error:
            return Left(id=name, task=str(task), queue=queue, why=str(error))
        except (ValueError, TypeError) as error:
            return Left(id=name, task=str(task), queue=queue, why=f"it can't be read: {error}")

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        words = []
        for item in items:
            kind, key, member, data, created = item.place
            record, held = f"rq:job:{item.id}", f"{self._hold}:{item.id}:{item.run}"
            given = (kind, member, data, created, held, "" if item.due_ms is None else item.due_ms)
            words.append(await self._client.eval(_CLAIM, 4, record, key, self._hold, held, *given))
        return [word == 1 for word in words]

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        held = [f"{self._hold}:{item.id}:{item.run}" for item in items]
        if held:
            await self._client.delete(*held)
        await holds.let_go(self._client, self._hold, held)

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()


def _moment(text: bytes | None) -> str:
    """A time as digits: 2030-01-02T03:04:05.678901Z becomes 20300102030405678901."""
    return "".join(filter(str.isdigit, (text or b"").decode("utf-8", "replace")))


def _call(data: bytes) -> tuple[str, Any, Sequence[Any], dict[str, Any]]:
    with contextlib.suppress(zlib.error):  # as RQ itself does: older jobs are not compressed
        data = zlib.decompress(data)
    if data[:1] == b"[":  # JSONSerializer
        try:
            task, instance, args, kwargs = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise UnreadableCallError(f"its data is no JSON: {error}") from None
    else:
        task, instance, args, kwargs = pickles.read(data)
    return task, instance, args, kwargs
