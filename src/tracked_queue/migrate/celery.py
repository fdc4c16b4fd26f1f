"""
Celery on Redis, as kombu keeps it: a list for each queue and priority, the oldest message at the tail; what a worker holds,
jobs with an ETA among it, is in the hash `unacked`.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import datetime
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..compat.celery.values import typed
from ..errors import UnreadableCallError
from . import holds, pickles
from .found import Found, Left

PAGE = 500
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
# The parts of a canvas that are in a message.
_CANVAS = ("callbacks", "errbacks", "chain", "chord")


class Celery:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
        prefix: `global_keyprefix` of Celery's broker_transport_options.
        stopped: All Celery workers are stopped: take what a killed one left in `unacked`, too.
    """

    name = "celery"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._prefix, self._stopped = client, prefix, stopped
        self._hold = f"{prefix}celery:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        bindings = f"{self._prefix}_kombu.binding."
        names = [key.decode() async for key in self._client.scan_iter(f"{bindings}*")]
        found = [name.removeprefix(bindings) for name in names]
        return sorted(name for name in found if "pidbox" not in name and not name.startswith("celeryev"))

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for element in await holds.held(self._client, self._hold):
            yield _read(element, "", None, claimed=True)
        for queue in queues:
            for priority in PRIORITIES:
                key = f"{self._prefix}{queue}{priority}"
                if await self._client.type(key) != b"list":
                    continue
                # From the tail, where the oldest are; new ones come in at the head and move nothing there.
                length = await self._client.llen(key)
                elements: list[bytes] = []
                for at in range(0, length, PAGE):
                    page = await self._client.lrange(key, -min(at + PAGE, length), -(at + 1))
                    elements += page[::-1]
                for element in elements:
                    yield _read(element, queue, ("list", key, element), claimed=False)
        async for item in self._unacked():
            yield item

    async def _unacked(self) -> AsyncIterator[Found | Left]:
        async for tag, held in self._client.hscan_iter(f"{self._prefix}unacked"):
            try:
                message, _, queue = msgspec.json.decode(held, type=tuple[Any, str, str])
            except msgspec.DecodeError as error:
                yield Left(id=tag.decode(), task="", queue="", why=f"an entry of `unacked` can't be read: {error}")
                continue
            element = json.dumps(message).encode()
            read = _read(element, queue, ("hash", f"{self._prefix}unacked", tag, element), claimed=False)
            if not self._stopped:
                why = (
                    "a Celery worker holds it, as it does jobs with an ETA: stop the workers, and say --workers-stopped"
                )
                yield Left(id=read.id, task=read.task, queue=queue, why=why)
            else:
                yield read

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        wanted = []
        for item in items:
            kind, key, element, *rest = item.place
            wanted.append((key, kind, element, rest[0] if rest else element))
        return await holds.claim(self._client, self._hold, wanted)

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        await holds.let_go(self._client, self._hold, [item.place[-1] for item in items])

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()


def _read(element: bytes, queue: str, place: Any, *, claimed: bool) -> Found | Left:
    id = task = ""
    try:
        message = msgspec.json.decode(element)
        headers, properties = message.get("headers") or {}, message.get("properties") or {}
        id, task = str(headers.get("id") or properties.get("correlation_id") or ""), str(headers.get("task") or "")
        body = _body(message, headers, properties)
        if not task:  # protocol 1, of Celery 3
            id, task = str(body.get("id", id)), str(body.get("task", ""))
            headers, embed = (
                body,
                {"callbacks": body.get("callbacks"), "errbacks": body.get("errbacks"), "chord": body.get("chord")},
            )
            args, kwargs = body.get("args") or [], body.get("kwargs") or {}
        else:
            args, kwargs, embed = body
        if not id or not task:
            raise UnreadableCallError("it has no id or no task")
        canvas = [name for name in _CANVAS if (embed or {}).get(name)]
        if canvas:
            raise UnreadableCallError(
                f"it is part of a canvas ({', '.join(canvas)}): let Celery's workers finish it, or start it anew"
            )
        return Found(
            id=id, task=task, queue=queue or str((properties.get("delivery_info") or {}).get("routing_key") or ""),
            args=tuple(typed(args)), kwargs=typed(kwargs), due_ms=_ms(headers.get("eta")),
            expires_ms=_ms(headers.get("expires")), place=place or ("held", "", element), claimed=claimed,
        )  # fmt: skip
    except UnreadableCallError as error:
        return Left(id=id, task=task, queue=queue, why=str(error))
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Left(id=id, task=task, queue=queue, why=f"it can't be read: {type(error).__name__}: {error}")


def _body(message: Any, headers: Any, properties: Any) -> Any:
    data = message["body"]
    if properties.get("body_encoding") == "base64":
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise UnreadableCallError(f"its body is no base64: {error}") from None
    data = data.encode() if isinstance(data, str) else data
    compression = str(headers.get("compression") or "")
    if compression in ("application/x-gzip", "application/x-bz2", "application/x-bzip2"):
        try:
            data = zlib.decompress(data) if compression == "application/x-gzip" else bz2.decompress(data)
        except (zlib.error, OSError) as error:
            raise UnreadableCallError(f"its body can't be decompressed: {error}") from None
    elif compression:
        raise UnreadableCallError(f"its body is compressed as {compression}, which is not read")
    kind = message.get("content-type")
    if kind == "application/json":
        return msgspec.json.decode(data)
    if kind == "application/x-python-serialize":
        return pickles.read(data)
    if kind == "application/x-msgpack":
        return msgspec.msgpack.decode(data)
    raise UnreadableCallError(f"its content type is {kind}, which is not read")


def _ms(moment: Any) -> int | None:
    if moment is None:
        return None
    found = moment if isinstance(moment, datetime.datetime) else datetime.datetime.fromisoformat(str(moment))
    return int((found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
