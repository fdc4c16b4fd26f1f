"""Running an app's schedules: any number of instances may; the store takes each tick once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from .. import log
from ..model.schedules import Schedule
from ..protocol.request import Request
from ..protocol.transitions import MAX_BATCH, enqueue, schedule
from ..transport.store import Store
from .outage import Outage, insist

# How often running schedules are reported again, so that the list of schedules shows which are still alive.
TELL_S = 30.0
# A tick is looked for this much after its time, so that a clock that is a little ahead does not miss it.
AFTER_S = 0.002


# The same number as in lua/include/ahead.lua.
AHEAD_MS = 5000


class Scheduler:
    """Stores the jobs of due ticks until it is cancelled or the lease is lost."""

    def __init__(
        self,
        *,
        store: Store,
        schedules: Sequence[Schedule],
        make: Callable[[Schedule, int, str], Request],
        outage: Outage,
        lost: Callable[[], bool],
    ) -> None:
        self._store, self._schedules, self._make = store, list(schedules), make
        self._outage, self._lost = outage, lost
        self._last: dict[str, int] = {}
        self._ahead_s = 0.0  # server's clock less the loop's
        self._loop = asyncio.get_running_loop()

    def _now_ms(self) -> int:
        return int((self._loop.time() + self._ahead_s) * 1000)

    async def run(self) -> None:
        """Store the jobs of due ticks until the lease is lost, and report the schedules now and then."""
        tell_at = 0.0
        while self._schedules and not self._lost():
            if self._loop.time() >= tell_at:
                if not await self._tell():
                    return
                tell_at = self._loop.time() + TELL_S * (0.8 + 0.4 * random.random())
            await self._tick()
            now_ms = self._now_ms()
            next_s = min(max(0, item.next_after(self._last[item.name]) - now_ms) for item in self._schedules) / 1000
            await asyncio.sleep(min(max(AFTER_S, next_s + AFTER_S), max(0.0, tell_at - self._loop.time())))

    async def _tell(self) -> bool:
        sent = self._loop.time()
        about = [(item.name, item.task.name, item.task.task_options.queue, item.shown) for item in self._schedules]
        told = await insist(self._store, schedule(about), self._outage, self._lost)
        if told is None:
            return False
        received = self._loop.time()
        self._ahead_s = told.now_ms / 1000 - (sent + received) / 2
        for item, last_ms in zip(self._schedules, told.last_ms, strict=True):
            # The tick remembered here may come from a clock that was ahead; then the store's one counts.
            own = self._last.get(item.name, 0)
            self._last[item.name] = max(last_ms, own) if own <= told.now_ms + AHEAD_MS else last_ms
        return True

    async def _tick(self) -> None:
        now_ms = self._now_ms()
        requests: list[Request] = []
        for item in self._schedules:
            ticks, last = item.due(self._last[item.name], now_ms)
            mode = "store" if item.missed == "all" else "coalesce"
            if last > self._last[item.name] and not ticks:
                ticks, mode = [last], "pass"
                log.ticks_skipped(schedule=item.name, until_ms=last)
            requests += [self._make(item, tick, mode) for tick in ticks]
            self._last[item.name] = last
        for at in range(0, len(requests), MAX_BATCH):
            await insist(self._store, enqueue(requests[at : at + MAX_BATCH]), self._outage, self._lost)
