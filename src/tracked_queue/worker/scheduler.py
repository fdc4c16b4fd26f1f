"""Running an app's schedules: any number of instances may; the store takes each tick once."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Sequence

from .. import log
from ..model.schedules import Schedule
from ..protocol.request import Request
from ..protocol.transitions import MAX_BATCH, enqueue, schedule
from ..transport.store import Store
from .outage import Outage, insist
from .plans import Plans

# How often running schedules are reported again, so that the list of schedules shows which are still alive.
TELL_S = 30.0
# A tick is looked for this much after its time, so that a clock that is a little ahead does not miss it.
AFTER_S = 0.002
# After so many schedules others get a turn: working out a cron expression takes a while.
YIELD = 50
# So many stale entries of the heap are let be.
SLACK = 100


# The same number as in lua/include/ahead.lua.
AHEAD_MS = 5000


class Scheduler:
    """Stores the jobs of due ticks until it is cancelled or the lease is lost."""

    def __init__(
        self,
        *,
        store: Store,
        plans: Plans,
        shard: int,
        make: Callable[[Schedule, int, str], Request],
        outage: Outage,
        lost: Callable[[], bool],
    ) -> None:
        self._store, self._plans, self._shard, self._make = store, plans, shard, make
        self._outage, self._lost = outage, lost
        self._schedules: dict[str, Schedule] = {}
        self._last: dict[str, int] = {}
        # When each is due next: (ms, name); an entry of a schedule that has changed since is stale, as its ms says.
        self._due: list[tuple[int, str]] = []
        self._next: dict[str, int] = {}
        self._ahead_s = 0.0  # server's clock less the loop's
        self._loop = asyncio.get_running_loop()

    def _now_ms(self) -> int:
        return int((self._loop.time() + self._ahead_s) * 1000)

    async def run(self) -> None:
        """Store the jobs of due ticks until the lease is lost, and report the schedules now and then."""
        tell_at, version = 0.0, -1
        while not self._lost():
            changed = self._plans.changed
            if version != self._plans.version:
                version = self._plans.version
                fresh = self._take(self._plans.of(self._shard))
                if fresh and not await self._tell(fresh):
                    return
            if not self._schedules:
                if not self._plans.sources:
                    return
                await changed.wait()
                continue
            if self._loop.time() >= tell_at:
                if tell_at and not await self._tell(list(self._schedules.values())):
                    return
                tell_at = self._loop.time() + TELL_S * (0.8 + 0.4 * random.random())
            await self._tick()
            next_s = max(0, self._due[0][0] - self._now_ms()) / 1000 if self._due else TELL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(next_s + AFTER_S, max(0.0, tell_at - self._loop.time()))):
                    await changed.wait()

    def _take(self, items: Sequence[Schedule]) -> list[Schedule]:
        """These are the schedules now; returns those that are new or have changed."""
        before, self._schedules = self._schedules, {item.name: item for item in items}
        for name in before.keys() - self._schedules.keys():
            self._last.pop(name, None)
            self._next.pop(name, None)
        return [item for item in items if before.get(item.name) is not item]

    async def _tell(self, items: Sequence[Schedule]) -> bool:
        for at in range(0, len(items), MAX_BATCH):
            portion = items[at : at + MAX_BATCH]
            sent = self._loop.time()
            about = [
                (item.name, item.task.name, item.options.queue or item.task.task_options.queue, item.shown)
                for item in portion
            ]
            told = await insist(self._store, schedule(about), self._outage, self._lost)
            if told is None:
                return False
            received = self._loop.time()
            self._ahead_s = told.now_ms / 1000 - (sent + received) / 2
            for number, (item, last_ms) in enumerate(zip(portion, told.last_ms, strict=True)):
                if number % YIELD == YIELD - 1:
                    await asyncio.sleep(0)
                # The tick remembered here may come from a clock that was ahead; then the store's one counts.
                own = self._last.get(item.name, told.now_ms if self._plans.is_new(item.name) else 0)
                self._last[item.name] = max(last_ms, own) if own <= told.now_ms + AHEAD_MS else last_ms
                self._plan(item)
        return True

    def _plan(self, item: Schedule) -> None:
        """Note when it is due next."""
        due_ms = item.next_after(self._last[item.name])
        if self._next.get(item.name) != due_ms:
            self._next[item.name] = due_ms
            heapq.heappush(self._due, (due_ms, item.name))
            if len(self._due) > 2 * len(self._next) + SLACK:  # most are of schedules that are gone
                self._due = [(due_ms, name) for name, due_ms in self._next.items()]
                heapq.heapify(self._due)

    async def _tick(self) -> None:
        now_ms = self._now_ms()
        requests: list[Request] = []
        while self._due and self._due[0][0] <= now_ms:
            due_ms, name = heapq.heappop(self._due)
            item = self._schedules.get(name)
            if item is None or self._next.get(name) != due_ms:
                continue
            ticks, last = item.due(self._last[name], now_ms)
            mode = "store" if item.missed == "all" else "coalesce"
            if last > self._last[name] and not ticks:
                ticks, mode = [last], "pass"
                log.ticks_skipped(schedule=name, until_ms=last)
            requests += [self._make(item, tick, mode) for tick in ticks]
            self._last[name] = last
            del self._next[name]
            self._plan(item)
            if len(requests) >= MAX_BATCH:
                await self._store_ticks(requests)
                requests = []
        await self._store_ticks(requests)

    async def _store_ticks(self, requests: Sequence[Request]) -> None:
        for at in range(0, len(requests), MAX_BATCH):
            await insist(self._store, enqueue(requests[at : at + MAX_BATCH]), self._outage, self._lost)
