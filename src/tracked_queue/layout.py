"""
Agreeing on the number of shards: every program of a namespace has to place jobs alike, so the number is kept in Redis.

It is changed by starting a program with another one while the namespace holds no jobs and has no instances: the shards that
were are closed one by one, each of them only if it is empty, and what still writes to them is refused. Source: lua/layout.lua,
lua/close.lua; docs/how-to/cluster.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from . import log
from .errors import StoreRefusedError
from .keys import Keys
from .shards import Shards
from .transitions import Call, close, layout

# What lua/close.lua found, for people.
_BUSY = {
    "instances": "there are workers",
    "scheduled": "jobs are scheduled",
    "dead": "there are dead jobs",
    "parked": "jobs are parked",
    "dependents": "jobs wait for others",
    "laned": "jobs wait for a limit or a turn",
    "ended": "ended jobs have followers to tell",
}
Step = tuple[Keys, Call[Any]]


class Layout:
    """
    Whether this process has made sure that its number of shards is the namespace's.

    Args:
        chosen: Whether somebody set the number: one that nobody has set never changes a namespace.
    """

    def __init__(self, shards: Shards, chosen: bool) -> None:
        self._shards, self._chosen = shards, chosen
        self.agreed = False

    async def agree(self, run: Callable[[Keys, Call[Any]], Awaitable[Any]]) -> None:
        """
        Make sure, once, before the first job is written.

        Raises:
            StoreRefusedError: The namespace has another number of shards, and holds jobs.
            StoreUnavailableError: Redis could not be asked.
        """
        if self.agreed:
            return
        steps = self._steps()
        step = next(steps)
        try:
            while True:
                step = steps.send(await run(*step))
        except StopIteration:
            self.agreed = True

    def agree_sync(self, run: Callable[[Keys, Call[Any]], Any]) -> None:
        """`agree` for code without an event loop."""
        if self.agreed:
            return
        steps = self._steps()
        step = next(steps)
        try:
            while True:
                step = steps.send(run(*step))
        except StopIteration:
            self.agreed = True

    def _steps(self) -> Generator[Step, Any, None]:
        """What has to be called, one after the other; each yields the value of the call before."""
        shards, base = self._shards, self._shards.layout_keys
        wanted = str(shards.count)
        found: str = yield base, layout("", wanted)
        if found == wanted:
            return
        if not self._chosen:
            number = found.partition(">")[0]
            raise StoreRefusedError(
                f"namespace {shards.namespace} has {number} shards, and this program was not told so: set shards={number} "
                "(TRACKED_QUEUE_SHARDS)"
            )
        if ">" in found:  # a program that changed it has died on the way, or is at it
            old, new = found.split(">")
            if old == wanted:
                yield base, layout(found, wanted)
                yield from self._set_closed(shards, False)
                return
            if new != wanted:
                raise StoreRefusedError(
                    f"namespace {shards.namespace} is being changed from {old} shards to {new}, not {wanted}"
                )
        else:
            old = found
            changing = yield base, layout(found, f"{old}>{wanted}")
            if changing != f"{old}>{wanted}":
                raise StoreRefusedError(
                    f"namespace {shards.namespace}: another program is changing the number of its shards"
                )
        yield from self._change(Shards(shards.namespace, int(old)))

    def _change(self, old: Shards) -> Generator[Step, Any, None]:
        shards, base = self._shards, self._shards.layout_keys
        changing, wanted = f"{old.count}>{shards.count}", str(shards.count)
        for shard in range(old.count):
            busy = yield old.keys(shard), close(True)
            if busy:
                yield base, layout(changing, str(old.count))
                yield from self._set_closed(old, False)
                where = f"in shard {shard} " if old.count > 1 else ""
                what = _BUSY.get(busy, f"{busy} holds jobs")
                raise StoreRefusedError(
                    f"namespace {shards.namespace} has {old.count} shard{'s' * (old.count > 1)} and this program is set to "
                    f"{wanted}; it can be changed while there are no jobs and no workers, and {where}{what}. Set shards to "
                    f"{old.count}, or let the queues run dry, clear the dead jobs and stop the workers first"
                )
        changed = yield base, layout(changing, wanted)
        if changed != wanted:
            yield from self._set_closed(old, False)
            raise StoreRefusedError(
                f"namespace {shards.namespace}: another program changed the number of its shards meanwhile"
            )
        # Shards of the new number may be closed from a change long ago.
        yield from self._set_closed(shards, False)
        log.shards_changed(namespace=shards.namespace, was=old.count, now=shards.count)

    def _set_closed(self, shards: Shards, closed: bool) -> Generator[Step, Any, None]:
        for shard in range(shards.count):
            yield shards.keys(shard), close(closed)
