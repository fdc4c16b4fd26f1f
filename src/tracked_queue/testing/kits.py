"""`QueueKits`: several apps under test, with one clock."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

from ..app import TrackedQueue
from ..errors import UsageError
from ..settings import Seconds
from .kit import QueueKit


class QueueKits:
    """
    Kits of several apps, opened together, with the same clock. Apps that have the same Redis and namespace share one here, too:
    a web application that enqueues by name, say, and the workers' app.

    Args:
        apps: At least one.
        start: See QueueKit.

    `kits[app]` is the kit of one of them.
    """

    def __init__(self, *apps: TrackedQueue, start: datetime | None = None) -> None:
        if not apps:
            raise UsageError("QueueKits: give the apps: QueueKits(shop, mail)")
        self._stack = AsyncExitStack()
        self._kits: dict[TrackedQueue, QueueKit] = {}
        first: dict[Any, QueueKit] = {}
        try:
            for app in apps:
                if not isinstance(app, TrackedQueue):
                    raise UsageError(f"QueueKits: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
                place = (app.settings.redis_url, app.settings.namespace, app.settings.shards)
                self._kits[app] = QueueKit(app, start, beside=first.get(place))
                first.setdefault(place, self._kits[app])
        except BaseException:
            for kit in self._kits.values():
                kit.close_unopened()
            raise

    def __getitem__(self, app: TrackedQueue) -> QueueKit:
        return self._kits[app]

    async def __aenter__(self) -> QueueKits:
        try:
            async with AsyncExitStack() as stack:
                for kit in self._kits.values():
                    await stack.enter_async_context(kit)
                now_ms = await next(iter(self._kits.values())).now_ms()
                for kit in self._kits.values():
                    await kit.set_clock(now_ms)
                self._stack = stack.pop_all()
        except BaseException:
            for kit in self._kits.values():
                kit.close_unopened()
            raise
        return self

    async def __aexit__(self, *problem: Any) -> None:
        await self._stack.__aexit__(*problem)

    async def advance(self, by: Seconds | None = None, **parts: float) -> None:
        """Move the clock of all of them: see QueueKit.advance."""
        for kit in self._kits.values():
            if not kit.is_beside:
                await kit.advance(by, **parts)

    async def drain(self, *, raises: bool = True) -> int:
        """Run everything that is takeable in any of them, also what they enqueue for each other: see QueueKit.drain."""
        runs = 0
        while True:
            ran = 0
            for app, kit in self._kits.items():
                if len(app.tasks):
                    ran += await kit.drain(raises=raises)
            runs += ran
            if not ran:
                return runs
