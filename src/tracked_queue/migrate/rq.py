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
        for id in await holds.held(self._client, self._hold):
            yield await self._read(id, "", None, claimed=True)
        for queue in queues:
            for id in await self._client.lrange(f"rq:queue:{queue}", 0, -1):
                yield await self._read(id, queue, ("head", f"rq:queue:{queue}"), claimed=False)
            for id, due in await self._client.zrange(f"rq:scheduled:{queue}", 0, -1, withscores=True):
                yield await self._read(
                    id, queue, ("zset", f"rq:scheduled:{queue}"), claimed=False, due_ms=int(due * 1000)
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
        self, id: bytes, queue: str, place: Any, *, claimed: bool, due_ms: int | None = None
    ) -> Found | Left:
        name = id.decode("utf-8", "replace")
        record = await self._client.hgetall(f"rq:job:{name}")
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
                args=tuple(args), kwargs=dict(kwargs), due_ms=due_ms, place=place, claimed=claimed,
            )  # fmt: skip
        except UnreadableCallError as error:
            return Left(id=name, task=str(task), queue=queue, why=str(error))
        except (ValueError, TypeError) as error:
            return Left(id=name, task=str(task), queue=queue, why=f"it can't be read: {error}")

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        for item in items:
            # The job must not expire while it is held; and its due time stands nowhere else once it is claimed.
            await self._client.persist(f"rq:job:{item.id}")
            if item.due_ms is not None:
                await self._client.hset(f"rq:job:{item.id}", "tracked_queue_due", item.due_ms)
        wanted = [
            (place[1], place[0], place[2] if len(place) > 2 else item.id, item.id)
            for item in items
            for place in [item.place]
        ]
        return await holds.claim(self._client, self._hold, wanted)

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        for item in items:
            await self._client.delete(f"rq:job:{item.id}")
        await holds.let_go(self._client, self._hold, [item.id for item in items])

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
