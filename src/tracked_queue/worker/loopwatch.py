"""
A thread that checks that the event loop turns: it touches the sign of life, logs what blocks the loop, and gives the process
up as a last resort. It uses nothing of the loop but call_soon_threadsafe.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable

from .. import log
from ..settings import Settings
from .delivery import Delivery
from .exits import STALLED_EXIT
from .meter import LAG_EDGES, METER
from .recorder import RECORDER

# Exit codes of a process that was given up; a supervisor starts another. The first is its job's doing; the second is
# an outage's, in which a job did not end in time, and counts as an interruption.
# How long the line that says why a process ends may take.
LAST_WORD_S = 0.5
# A block shorter than this is not worth a line.
MIN_BLOCK_S = 1.0


def in_thread(write: Callable[[], None]) -> threading.Thread:
    """Write a log line in a thread of its own: a log that nobody reads blocks its writer."""
    thread = threading.Thread(target=write, name="tracked_queue-watchdog-log", daemon=True)
    thread.start()
    return thread


def place_of(thread: int) -> str:
    """Where a thread is: file, line and function of its innermost frame."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"


def give_up(
    lease: str,
    why: str,
    seconds: float,
    code: int,
    loop: asyncio.AbstractEventLoop,
    thread: int,
    end: Callable[[int], None],
) -> None:
    """End the process, and log why; the flight recorder writes its last file."""
    written = RECORDER.write("given-up", loop)
    if written is not None:
        written.join(LAST_WORD_S)
    # The loop may be blocked in writing a log line itself; this one gets a moment, the exit does not wait for it.
    place = place_of(thread)
    in_thread(lambda: log.process_given_up(lease=lease, why=why, seconds=seconds, place=place)).join(LAST_WORD_S)
    end(code)


class Periodic:
    """
    A thread that looks every now and then, until it is stopped or its event loop is closed.

    Args:
        interval: Seconds between beats; it looks at least twice in that time (for short leases) and once a second.
        end: Called in the thread at its end.
    """

    def __init__(
        self, name: str, interval: float, look: Callable[[], None], end: Callable[[], None] = lambda: None
    ) -> None:
        self._pause, self._look, self._end = min(1.0, interval / 2), look, end
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns at once, a call to Redis in flight ends by its own time limit."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            try:
                self._look()
            except Exception:
                if self._loop.is_closed():
                    break
                # Nothing that goes wrong in one look ends the watch; the next one comes.
        self._end()


class LoopWatch:
    """One thread for one process; `leases` and `running` return what it has now, `sign` is called while this thread runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        leases: Callable[[], Iterable[str]],
        running: Callable[[], Iterable[Delivery]],
        tick: Callable[[], None],
        sign: Callable[[], None],
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._settings, self._leases, self._running = settings, leases, running
        self._tick, self._sign, self._exit = tick, sign, exit_process
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        thread = Periodic("tracked_queue-loopwatch", settings.heartbeat_interval, self._look)
        self.start, self.stop = thread.start, thread.stop
        self._asked_at: float | None = None  # when the loop was asked for a sign of life
        self._warned = self._recorded = False

    def _look(self) -> None:
        self._sign()
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._alive)
            return
        blocked_s = now - self._asked_at
        lease = ", ".join(self._leases())
        if blocked_s >= MIN_BLOCK_S and not self._warned:
            self._warned = True
            task, job_id = self._blocking_job()
            place = place_of(self._loop_thread)
            in_thread(lambda: log.loop_blocked(lease=lease, seconds=blocked_s, task=task, job_id=job_id, place=place))
        if blocked_s >= max(MIN_BLOCK_S, self._settings.heartbeat_interval) and not self._recorded:
            self._recorded = True
            RECORDER.write("loop-blocked", self._loop)
        if blocked_s > self._settings.stall_limit:
            give_up(
                lease, "the event loop is blocked", blocked_s, STALLED_EXIT, self._loop, self._loop_thread, self._exit
            )

    def _alive(self) -> None:
        """Called in the loop, which shows that it turns."""
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None:
            METER.observe("loop_lag_seconds", LAG_EDGES, time.monotonic() - asked_at)
        self._tick()
        self._recorded = False
        if self._warned and asked_at is not None:
            self._warned = False
            log.loop_unblocked(lease=", ".join(self._leases()), seconds=time.monotonic() - asked_at)

    def _blocking_job(self) -> tuple[str, str]:
        """The task's name and job's id that the loop is running, as far as that can be seen from outside."""
        running = asyncio.current_task(self._loop)
        for delivery in list(self._running()):
            if delivery.asyncio_task is running:
                return delivery.task.name, delivery.id
        return "", ""
