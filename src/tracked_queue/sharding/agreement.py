"""
Agreeing on the number of shards: every program of a namespace has to place jobs alike, so the number is kept in Redis.

It is changed by starting a program with another number while the namespace holds no jobs and has no instances: the shards that
existed are closed one by one, each only if it is empty, and what still writes to them is refused. Source: lua/layout.lua,
lua/close.lua; docs/how-to/cluster.md.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Generator
from typing import Any

from ..errors import StoreRefusedError, StoreUnavailableError
from ..protocol.keys import Keys
from ..protocol.transitions import Call, close, layout
from ..transport.endpoint import Endpoint
from ..transport.link import MIN_S, Link
from ..transport.store import Store, SyncStore
from ..transport.sync_link import SyncLink
from .shards import Shards

# What lua/close.lua found, for people.
_BUSY = {
    "instances": "there are workers",
    "scheduled": "jobs are scheduled",
    "dead": "there are dead jobs",
    "parked": "jobs are parked",
    "dependents": "jobs wait for others",
    "laned": "jobs wait for a limit or a turn",
    "ended": "ended jobs have followers that still wait for them",
    "paused": "something is paused, which the new shards would not know",
}
# Other programs may change it at the same time; the slower one looks again.
TRIES = 5
Step = tuple[Keys, Call[Any]]


def _after(steps: Generator[Step, Any, None], value: Any) -> Step | None:
    """The next step; None after the last one."""
    try:
        return steps.send(value)
    except StopIteration:
        return None


class Agreement:
    """
    Whether this process has made sure that its number of shards is the namespace's.

    Args:
        chosen: Whether somebody set the number: one that nobody has set never changes a namespace.
    """

    def __init__(self, shards: Shards, chosen: bool) -> None:
        self._shards, self.chosen = shards, chosen
        self.agreed = False
        self._asking: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def agree(self, endpoint: Endpoint) -> None:
        """
        Make sure, once, before the first job is written; callers that come at the same time ask once.

        Raises:
            StoreRefusedError: The namespace has another number of shards, and holds jobs.
            StoreUnavailableError: Redis could not be asked.
        """
        if self.agreed:
            return
        async with self._asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            steps = self._steps()
            step: Step | None = None if self.agreed else next(steps)
            while step is not None:
                keys, call = step
                link = Link(endpoint.of(keys))
                try:
                    step = _after(steps, await Store(link, keys).run(call))
                finally:
                    await link.close()
            self.agreed = True

    def agree_sync(self, endpoint: Endpoint, seconds: float) -> None:
        """`agree` for code without an event loop, in this time."""
        steps = self._steps()
        step: Step | None = None if self.agreed else next(steps)
        until = time.monotonic() + seconds
        while step is not None:
            keys, call = step
            store = SyncStore(SyncLink(endpoint.of(keys), max(MIN_S, until - time.monotonic())), keys)
            try:
                step = _after(steps, store.run(call))
            finally:
                store.close()
        self.agreed = True

    def _steps(self) -> Generator[Step, Any, None]:
        """What has to be called, one after the other; each yields the value of the call before."""
        shards, base = self._shards, self._shards.base_keys
        wanted = str(shards.count)
        for _ in range(TRIES):
            found: str = yield base, layout("", wanted)
            if found == wanted:
                return
            old, _, new = found.partition(">")
            if not self.chosen:
                raise StoreRefusedError(
                    f"namespace {shards.namespace} has {old} shards, but shards is not set here: set shards={old} "
                    "(TRACKED_QUEUE_SHARDS)"
                )
            if new and wanted not in (old, new):
                raise StoreRefusedError(
                    f"namespace {shards.namespace} is being changed from {old} shards to {new}, not {wanted}"
                )
            if wanted == old:  # the program that began to change it has died midway, or is still at it
                done = yield from self._take_back(found, Shards(shards.namespace, int(new)))
            else:
                done = yield from self._change(found, Shards(shards.namespace, int(old)))
            if done:
                return
        raise StoreUnavailableError(
            f"another program is changing the number of shards of namespace {shards.namespace}", may_have_run=False
        )

    def _change(self, found: str, old: Shards) -> Generator[Step, Any, bool]:
        """Change the old number to ours; False if another program was faster."""
        shards, base = self._shards, self._shards.base_keys
        changing, wanted = f"{old.count}>{shards.count}", str(shards.count)
        if found != changing:
            # First without changing anything: a program that is refused harms nobody.
            for shard in range(old.count):
                busy = yield old.keys(shard), close("look")
                if busy:
                    if (yield base, layout("", wanted)) != found:
                        return False
                    raise self._refusal(old, shard, busy)
            if (yield base, layout(found, changing)) != changing:
                return False
        for shard in range(old.count):
            busy = yield old.keys(shard), close("close")
            if busy:
                if (yield base, layout(changing, str(old.count))) == str(old.count):
                    yield from self._open(old)
                    raise self._refusal(old, shard, busy)
                return False
        # From here on there is no way back: the old shards take nothing. Ours may be closed from an earlier change.
        yield from self._open(shards)
        if (yield base, layout(changing, wanted)) != wanted:
            return False
        from .. import log  # structlog is half of what importing this package costs, and this is rare

        log.shards_changed(namespace=shards.namespace, was=old.count, now=shards.count)
        return True

    def _take_back(self, changing: str, new: Shards) -> Generator[Step, Any, bool]:
        """Undo a change that was begun, unless something is in the new shards already."""
        shards, base = self._shards, self._shards.base_keys
        for shard in range(new.count):
            busy = yield new.keys(shard), close("close")
            if busy:
                raise StoreRefusedError(
                    f"namespace {shards.namespace} is being changed from {shards.count} shards to {new.count}, which are in use"
                )
        if (yield base, layout(changing, str(shards.count))) != str(shards.count):
            return False
        yield from self._open(shards)
        return True

    def _refusal(self, old: Shards, shard: int, busy: str) -> StoreRefusedError:
        where = f"in shard {shard} " if old.count > 1 else ""
        what = _BUSY.get(busy, f"{busy} holds jobs")
        return StoreRefusedError(
            f"namespace {old.namespace} has {old.count} shard{'s' * (old.count > 1)} and this program is set to "
            f"{self._shards.count}; it can be changed while there are no jobs and no workers, and {where}{what}. Set shards to "
            f"{old.count}, or let the queues run dry, clear the dead jobs and stop the workers first"
        )

    def _open(self, shards: Shards) -> Generator[Step, Any, None]:
        for shard in range(shards.count):
            yield shards.keys(shard), close("open")
