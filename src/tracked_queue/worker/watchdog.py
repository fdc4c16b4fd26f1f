"""
A thread that keeps the lease when the event loop can't, and ends the process when a job would outlive it.

It uses a connection of its own and nothing of the loop but call_soon_threadsafe.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

from ..errors import TrackedQueueError
from ..protocol.transitions import Beat, heartbeat
from ..settings import Settings
from ..transport.store import SyncStore
from .exits import FENCED_EXIT
from .lease import EXIT_PART, FENCE_PART, LeaseState
from .loopwatch import Periodic, give_up
from .runner import Runner

# A last good beat older than this many intervals makes the watchdog beat.
LATE_INTERVALS = 1.5


class Watchdog:
    """One thread for one lease."""

    def __init__(
        self,
        *,
        store: SyncStore,
        state: LeaseState,
        settings: Settings,
        runner: Runner,
        news: Callable[[Beat | None], None],
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._store, self._state, self._settings, self._runner = store, state, settings, runner
        self._news, self._exit = news, exit_process
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        thread = Periodic("tracked_queue-watchdog", settings.heartbeat_interval, self._look, store.close)
        self.start, self.stop = thread.start, thread.stop
        self._doubtful_since: float | None = None

    def _look(self) -> None:
        # The lease first: whatever has to be waited for must not keep it from being extended or given up.
        if self._state.silent_s > LATE_INTERVALS * self._settings.heartbeat_interval and not self._state.lost:
            self._beat()
        self._look_at_lease()

    def _beat(self) -> None:
        sent_at = time.monotonic()
        settings = self._settings
        try:
            beat = self._store.run(heartbeat(self._state.lease, settings.heartbeat_ttl, settings.heartbeat_interval))
        except TrackedQueueError:
            return  # the heartbeat task says what there is to say
        if beat is not None:
            self._state.beaten(sent_at)
        self._loop.call_soon_threadsafe(self._news, beat)

    def _look_at_lease(self) -> None:
        state, running = self._state, len(self._runner.running)
        lost_s = state.lost_s
        if running and lost_s is not None and lost_s > self._settings.cancel_grace:
            self._give_up("the lease is lost and a job does not stop", lost_s, FENCED_EXIT)
        silent_s = state.silent_s
        if silent_s <= state.ttl * FENCE_PART:
            self._doubtful_since = None
            return
        # After a freeze the doubt is news to the loop as well: it gets its time to cancel before the process ends.
        now = time.monotonic()
        self._doubtful_since = self._doubtful_since or now
        if (
            running
            and silent_s > state.ttl * EXIT_PART
            and now - self._doubtful_since > state.ttl * (EXIT_PART - FENCE_PART)
        ):
            self._give_up("the lease runs out and a job does not stop", silent_s, FENCED_EXIT)

    def _give_up(self, why: str, seconds: float, code: int) -> None:
        give_up(self._state.lease, why, seconds, code, self._loop, self._loop_thread, self._exit)
