"""
Agreeing on the number of shards and on the protocol: every program of a namespace has to place jobs alike, and to read what
the others write, so both numbers are kept in Redis.

The protocol's number is that of the newest program (protocol/version.py). The number of shards is changed by starting a program
with another number while the namespace holds no jobs and has no instances: the shards that existed are closed one by one, each
only if it is empty, and what still writes to them is refused. Source: lua/layout.lua, lua/close.lua, lua/protocol.lua;
docs/how-to/cluster.md, docs/operations/upgrade.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Generator, Sequence
from typing import Any, Literal

from ..errors import NamespaceMismatchError, StoreUnavailableError
from ..protocol.keys import Keys
from ..protocol.transitions import Agreed, Call, ProtocolWord, close, layout, protocol
from ..protocol.version import NEWEST, OLDEST, WRITES, misfit, package_version
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
    Whether this process has made sure that its number of shards is the namespace's, and that all here read each other.

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
            NamespaceMismatchError: The namespace has another number of shards, and holds jobs; or this version can't work
                there, or not beside the workers that are there.
            StoreUnavailableError: Redis could not be asked.
        """
        if self.agreed:
            return
        async with self._asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            steps = self._steps()
            step: Step | None = None if self.agreed else next(steps)
            async with contextlib.AsyncExitStack() as links:
                stores: dict[str, Store] = {}
                while step is not None:
                    keys, call = step
                    if keys.tag not in stores:
                        stores[keys.tag] = Store(Link(endpoint.of(keys)), keys)
                        links.push_async_callback(stores[keys.tag].close)
                    step = _after(steps, await stores[keys.tag].run(call))
            self.agreed = True

    def agree_sync(self, endpoint: Endpoint, seconds: float) -> None:
        """`agree` for code without an event loop, in this time."""
        steps = self._steps()
        step: Step | None = None if self.agreed else next(steps)
        until = time.monotonic() + seconds
        with contextlib.ExitStack() as links:
            stores: dict[str, SyncStore] = {}
            while step is not None:
                keys, call = step
                left = max(MIN_S, until - time.monotonic())
                if keys.tag not in stores:
                    stores[keys.tag] = SyncStore(SyncLink(endpoint.of(keys), left), keys)
                    links.callback(stores[keys.tag].close)
                step = _after(steps, stores[keys.tag].run(call, left))
        self.agreed = True

    def _steps(self) -> Generator[Step, Any, None]:
        """What has to be called, one after the other; each yields the value of the call before."""
        shards, base = self._shards, self._shards.base_keys
        # First without changing anything: a program that is refused harms nobody. Once the number stands at the namespace it
        # stands in all shards; that one of them is away holds nobody up.
        agreed = yield from self._speak([base], "look")
        changed = yield from self._place()
        if changed or agreed < WRITES:
            all_keys = list(dict.fromkeys([*map(shards.keys, range(shards.count)), base]))
            yield from self._speak(all_keys, "look")
            yield from self._speak(all_keys, "raise")

    def _speak(self, where: Sequence[Keys], what: Literal["look", "raise"]) -> Generator[Step, Any, int]:
        """Agree on the protocol, in one shard after the other; the last one's."""
        name, number = f"namespace {self._shards.namespace}", 0
        for keys in where:
            agreed: Agreed = yield keys, protocol(OLDEST, NEWEST, WRITES, what)
            number = agreed.number
            if agreed.word in (ProtocolWord.ABOVE, ProtocolWord.BELOW):
                raise NamespaceMismatchError(misfit(name, number))
            if agreed.word is ProtocolWord.BEHIND:
                raise NamespaceMismatchError(
                    f"this version ({package_version()}) writes protocol {WRITES}, which a worker of {name} doesn't read: "
                    f"{agreed.lease}, version {agreed.version or 'unknown'}. Upgrade that one to a version between the two, "
                    "or stop it, first"
                )
        return number

    def _place(self) -> Generator[Step, Any, bool]:
        """Agree on the number of shards; whether that opened some."""
        shards, base = self._shards, self._shards.base_keys
        wanted = str(shards.count)
        for _ in range(TRIES):
            found: str = yield base, layout("", wanted)
            if found == wanted:
                return False
            old, _, new = found.partition(">")
            if not self.chosen:
                raise NamespaceMismatchError(
                    f"namespace {shards.namespace} has {old} shards, but shards is not set here: set shards={old} "
                    "(TRACKED_QUEUE_SHARDS)"
                )
            if new and wanted not in (old, new):
                raise NamespaceMismatchError(
                    f"namespace {shards.namespace} is being changed from {old} shards to {new}, not {wanted}"
                )
            if wanted == old:  # the program that began to change it has died midway, or is still at it
                done = yield from self._take_back(found, Shards(shards.namespace, int(new)))
            else:
                done = yield from self._change(found, Shards(shards.namespace, int(old)))
            if done:
                return True
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
                raise NamespaceMismatchError(
                    f"namespace {shards.namespace} is being changed from {shards.count} shards to {new.count}, which are in use"
                )
        if (yield base, layout(changing, str(shards.count))) != str(shards.count):
            return False
        yield from self._open(shards)
        return True

    def _refusal(self, old: Shards, shard: int, busy: str) -> NamespaceMismatchError:
        where = f"in shard {shard} " if old.count > 1 else ""
        what = _BUSY.get(busy, f"{busy} holds jobs")
        return NamespaceMismatchError(
            f"namespace {old.namespace} has {old.count} shard{'s' * (old.count > 1)} and this program is set to "
            f"{self._shards.count}; it can be changed while there are no jobs and no workers, and {where}{what}. Set shards to "
            f"{old.count}, or let the queues run dry, clear the dead jobs and stop the workers first"
        )

    def _open(self, shards: Shards) -> Generator[Step, Any, None]:
        for shard in range(shards.count):
            yield shards.keys(shard), close("open")
