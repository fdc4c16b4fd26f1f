"""huey: a list of pickled messages, the oldest at its tail, and a sorted set of those that are due later."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..errors import UnreadableCallError
from . import holds, pickles
from .found import Found, Left

_FIELDS = (
    "id",
    "name",
    "eta",
    "retries",
    "retry_delay",
    "priority",
    "args",
    "kwargs",
    "on_complete",
    "on_error",
    "expires",
)


class _Message(tuple[Any, ...]):
    """Stands for huey's own: a tuple of its fields."""

    __slots__ = ()

    def __new__(cls, *fields: Any) -> _Message:
        return super().__new__(cls, fields)


class Huey:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
    """

    name = "huey"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client = client
        self._hold = f"huey.{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        names = set()
        for start in ("huey.redis.", "huey.schedule."):
            names |= {key.decode().removeprefix(start) async for key in self._client.scan_iter(f"{start}*")}
        return sorted(names)

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for data in await holds.held(self._client, self._hold):
            yield _read(data, "", None, claimed=True)
        for queue in queues:
            key, later = f"huey.redis.{queue}", f"huey.schedule.{queue}"
            kind = await self._client.type(key)
            if kind == b"list":
                for data in (await self._client.lrange(key, 0, -1))[::-1]:
                    yield _read(data, queue, ("list", key), claimed=False)
            elif kind == b"zset":
                for data in await self._client.zrange(key, 0, -1):
                    yield _read(data, queue, ("zset", key), claimed=False)
            for data in await self._client.zrange(later, 0, -1):
                yield _read(data, queue, ("zset", later), claimed=False)

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        wanted = [(item.place[1], item.place[0], item.place[2], item.place[2]) for item in items]
        return await holds.claim(self._client, self._hold, wanted)

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        await holds.let_go(self._client, self._hold, [item.place[2] for item in items])

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()


def _read(data: bytes, queue: str, place: Any, *, claimed: bool) -> Found | Left:
    id = task = ""
    try:
        message = pickles.read(data, {("huey.registry", "Message"): _Message})
        if not isinstance(message, _Message) or len(message) < len(_FIELDS):
            raise UnreadableCallError("it is no message of huey's")
        fields = dict(zip(_FIELDS, message, strict=False))
        id, task = str(fields["id"]), str(fields["name"])
        if fields["on_complete"] or fields["on_error"] or (len(message) > 13 and message[13]):
            raise UnreadableCallError("it is part of a pipeline or a chord: let huey's consumer finish it")
        return Found(
            id=id, task=task, queue=queue, args=tuple(fields["args"] or ()), kwargs=dict(fields["kwargs"] or {}),
            due_ms=_ms(fields["eta"]), expires_ms=_expires(message), place=(*(place or ("held", "")), data), claimed=claimed,
        )  # fmt: skip
    except UnreadableCallError as error:
        return Left(id=id, task=task, queue=queue, why=str(error))
    except (ValueError, TypeError) as error:
        return Left(id=id, task=task, queue=queue, why=f"it can't be read: {error}")


def _expires(message: _Message) -> int | None:
    # `expires` may be a span from the enqueue; then the next field has the moment.
    return _ms(message[11]) if len(message) > 11 and message[11] else None


def _ms(moment: Any) -> int | None:
    """huey's times are naive ones of UTC, unless it was told otherwise."""
    if moment is None:
        return None
    if not isinstance(moment, datetime.datetime):
        raise UnreadableCallError(f"its time {moment!r} can't be read")
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
