"""
A thread that keeps the lease when the event loop can't, tells what blocks it, and ends the process as a last resort.

It uses a connection of its own and nothing of the loop but call_soon_threadsafe.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable

from .. import log
from ..errors import TrackedQueueError
from ..settings import Settings
from ..store import SyncStore
from ..transitions import Beat, heartbeat
from .lease import EXIT_PART, FENCE_PART, LeaseState
from .runner import Runner

# Exit codes of a process that was given up; a supervisor starts another. The first is its job's doing; the second is
# an outage's, in which a job did not end in time, and counts as an interruption.
STALLED_EXIT = 70
FENCED_EXIT = 71
# A last good beat older than this many intervals makes the watchdog beat.
LATE_INTERVALS = 1.5
# How long the line that says why a process ends may take.
LAST_WORD_S = 0.5
# A block shorter than this is not worth a line.
MIN_BLOCK_S = 1.0


def _in_thread(write: Callable[[], None]) -> threading.Thread:
    """Write a log line beside the watch: a log that nobody reads blocks its writer."""
    thread = threading.Thread(target=write, name="tracked_queue-watchdog-log", daemon=True)
    thread.start()
    return thread


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
        tick: Callable[[], None],
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._store, self._state, self._settings, self._runner = store, state, settings, runner
        self._news, self._tick, self._exit = news, tick, exit_process
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracked_queue-watchdog", daemon=True)
        self._asked_at: float | None = None  # when the loop was asked for a sign of life
        self._warned = False
        self._doubtful_since: float | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns at once, a call to Redis in flight ends by its own time limit."""
        self._stop.set()

    def _run(self) -> None:
        interval = self._settings.heartbeat_interval
        # At most one wake-up a second; short leases of tests need shorter ones.
        pause = min(1.0, interval / 2)
        while not self._stop.wait(pause):
            try:
                # The lease first: whatever a log line has to wait for must not keep it from being extended or given up.
                if self._state.silent_s > LATE_INTERVALS * interval and not self._state.lost:
                    self._beat()
                self._look_at_lease()
                self._look_at_loop()
            except Exception:
                if self._loop.is_closed():
                    break
                # Nothing that goes wrong in one look ends the watch; the next one comes.
        self._store.close()

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

    def _look_at_loop(self) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._alive)
            return
        blocked_s = now - self._asked_at
        if blocked_s >= MIN_BLOCK_S and not self._warned:
            self._warned = True
            task, job_id = self._blocking_job()
            lease, place = self._state.lease, self._place()
            _in_thread(lambda: log.loop_blocked(lease=lease, seconds=blocked_s, task=task, job_id=job_id, place=place))
        if blocked_s > self._settings.stall_limit:
            self._give_up("the event loop is blocked", blocked_s, STALLED_EXIT)

    def _alive(self) -> None:
        """Runs in the loop: it turns."""
        asked_at, self._asked_at = self._asked_at, None
        self._tick()
        if self._warned and asked_at is not None:
            self._warned = False
            log.loop_unblocked(lease=self._state.lease, seconds=time.monotonic() - asked_at)

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
        # The loop may be blocked in writing a log line itself; this one gets a moment, the exit does not wait for it.
        lease, place = self._state.lease, self._place()
        writing = _in_thread(lambda: log.process_given_up(lease=lease, why=why, seconds=seconds, place=place))
        writing.join(LAST_WORD_S)
        self._exit(code)

    def _blocking_job(self) -> tuple[str, str]:
        """The task's name and job's id that the loop is running, as far as that can be seen from outside."""
        running = asyncio.current_task(self._loop)
        for delivery in list(self._runner.running):
            if delivery.asyncio_task is running:
                return delivery.task.name, delivery.id
        return "", ""

    def _place(self) -> str:
        """Where the loop's thread is: file, line and function of its innermost frame."""
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None:
            return ""
        return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
