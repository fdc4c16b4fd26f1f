"""Keeping the lease: beats from a task with a connection of its own, and doubt when none gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..errors import StoreUnavailableError
from ..protocol.transitions import Beat, BeatFacts, heartbeat
from ..settings import Settings
from ..transport.store import Store
from .lease import FENCE_PART, LeaseState
from .meter import METER
from .outage import Outage, pauses
from .times import Times

# The longest time between beats while jobs run: cancel requests travel with them.
BUSY_INTERVAL_S = 1.0


class Heartbeat:
    """Beats until it is cancelled or the lease is lost; hands each beat's news to `news`."""

    def __init__(
        self,
        *,
        store: Store,
        state: LeaseState,
        settings: Settings,
        outage: Outage,
        busy: Callable[[], bool],
        news: Callable[[Beat | None], None],
        doubt: Callable[[], None],
        starts: Callable[[], list[tuple[bytes, bytes, int]]],
        starts_answered: Callable[[], None],
        times: Times,
    ) -> None:
        self._store, self._state, self._settings, self._outage = store, state, settings, outage
        self._busy, self._news, self._doubt = busy, news, doubt
        self._starts, self._starts_answered, self._times = starts, starts_answered, times

    async def run(self) -> None:
        """Send beats until cancelled or until the lease is lost."""
        settings = self._settings
        tries = pauses()
        while not self._state.lost:
            sent_at = time.monotonic()
            counters = self._times.portion()
            facts = BeatFacts(self._times.number, self._starts(), counters)
            try:
                beat = await self._store.run(
                    heartbeat(self._state.lease, settings.heartbeat_ttl, settings.heartbeat_interval, facts),
                    timeout=min(settings.heartbeat_ttl / 4, settings.reply_timeout),
                )
            except StoreUnavailableError as error:
                self._outage.failed(error.problem)
                await asyncio.sleep(min(next(tries), settings.heartbeat_interval))
                continue
            tries = pauses()
            self._times.answered()
            self._starts_answered()
            self._outage.worked()
            if beat is not None:
                METER.beaten(self._state.ttl - self._state.silent_s)
                self._state.beaten(sent_at)
            self._news(beat)
            await self._pause(sent_at)

    async def _pause(self, sent_at: float) -> None:
        """Until the next beat: the idle interval, cut short once a job runs."""
        interval = self._settings.heartbeat_interval
        busy_interval = min(interval, BUSY_INTERVAL_S)
        while True:
            wanted = busy_interval if self._busy() else interval
            left = sent_at + wanted - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, busy_interval))

    async def watch(self) -> None:
        """Call `doubt` whenever beats have failed for long enough that running jobs must end (self-fencing)."""
        limit = self._state.ttl * FENCE_PART
        doubted = False
        while not self._state.lost:
            left = limit - self._state.silent_s
            if left > 0:
                doubted = False
                await asyncio.sleep(left)
            else:
                if not doubted:
                    doubted = True
                    self._doubt()
                await asyncio.sleep(self._settings.heartbeat_interval / 2)
