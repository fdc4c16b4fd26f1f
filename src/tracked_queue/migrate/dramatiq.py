"""
dramatiq: for each queue a list of ids, the next one at its head, and a hash of messages; delayed ones in the queue of the same
name with `.DQ`. What workers have fetched, delayed ones among it, is in sets of acknowledgements.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..errors import UnreadableCallError
from . import holds
from .found import Found, Left

# Options of a message that call others.
_PIPES = ("pipe_target", "group_callbacks", "on_success", "on_failure")


class Dramatiq:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
        prefix: The broker's `namespace`, if it is not `dramatiq`.
        stopped: All dramatiq workers are stopped: take what killed ones held, too.
    """

    name = "dramatiq"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._stopped = client, stopped
        self._space = prefix or "dramatiq"
        self._hold = f"{self._space}:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source."""
        found = {
            key.decode().removeprefix(f"{self._space}:").removesuffix(".msgs").removesuffix(".DQ")
            async for key in self._client.scan_iter(f"{self._space}:*.msgs")
        }
        return sorted(name for name in found if not name.endswith(".XQ"))

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for held in await holds.held(self._client, self._hold):
            queue, _, id = held.decode().rpartition(" ")
            yield await self._read(queue, id, ("held", "", held.decode()), claimed=True)
        for name in queues:
            for queue in (name, f"{name}.DQ"):
                key = f"{self._space}:{queue}"
                for id in await self._client.lrange(key, 0, -1):
                    yield await self._read(queue, id.decode(), ("head", key, id.decode()), claimed=False)
                async for acks in self._client.scan_iter(f"{self._space}:__acks__.*.{queue}"):
                    for id in await self._client.smembers(acks):
                        item = await self._read(queue, id.decode(), ("set", acks.decode(), id.decode()), claimed=False)
                        if not self._stopped:
                            why = "a worker holds it, as it does delayed ones: stop the workers, and say --workers-stopped"
                            item = Left(id=item.id, task=item.task, queue=name, why=why)
                        yield item

    async def _read(self, queue: str, id: str, place: Any, *, claimed: bool) -> Found | Left:
        task = ""
        try:
            data = await self._client.hget(f"{self._space}:{queue}.msgs", id)
            if data is None:
                raise UnreadableCallError("its message is gone: nothing is left to move")
            message = msgspec.json.decode(data)
            task, options = str(message["actor_name"]), message.get("options") or {}
            pipes = [name for name in _PIPES if options.get(name)]
            if pipes:
                raise UnreadableCallError(
                    f"it calls other actors ({', '.join(pipes)}): let dramatiq's workers finish it"
                )
            return Found(
                id=str(message["message_id"]), task=task, queue=queue.removesuffix(".DQ"),
                args=tuple(message.get("args") or ()), kwargs=dict(message.get("kwargs") or {}),
                due_ms=options.get("eta"), place=(*place, queue, id), claimed=claimed,
            )  # fmt: skip
        except UnreadableCallError as error:
            return Left(id=id, task=task, queue=queue, why=str(error))
        except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
            return Left(
                id=id, task=task, queue=queue, why=f"it is no JSON of dramatiq's: {type(error).__name__}: {error}"
            )

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        wanted = [(item.place[1], item.place[0], item.place[2], " ".join(item.place[-2:])) for item in items]
        return await holds.claim(self._client, self._hold, wanted)

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        for item in items:
            queue, id = item.place[-2:]
            await self._client.hdel(f"{self._space}:{queue}.msgs", id)
        await holds.let_go(self._client, self._hold, [" ".join(item.place[-2:]) for item in items])

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()
