"""
How many jobs a fetch asks for: the one place that decides it. It does no I/O, and the time is passed in.

It knows the free places of its shard (`Seat`), how fast jobs ended lately, and what the last fetch left. Source:
docs/explanation/waking.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..protocol.transitions import MAX_BATCH
from .slots import Seat

# A standing fetch takes few: a burst spreads over the idle workers, and a frozen one can't swallow a hundred jobs.
STANDING = 8
# Jobs wait in the instance only while they would start within about this time at the rate seen lately; so jobs that take long
# are never hoarded.
BUFFER_S = 0.02
# Measured over this time, or once twice the concurrency has ended: by then it does not merely reflect that jobs which began
# together ended together.
RATE_WINDOW_S, SHORT_WINDOW_S = 0.02, 0.005
# And never more than this many times the concurrency: enough that the next fetch is answered before they have run.
BUFFER_TIMES = 3
# The rate is forgotten when nothing has ended for this time.
RATE_MEMORY_S = 0.1


class Want(NamedTuple):
    """What an instance could take: jobs to start, jobs to wait, from which queues, and at most how many of each."""

    start: int
    buffer: int
    queues: Sequence[str]
    most: Mapping[str, int]


class Appetite:
    """
    `more` says whether the last fetch left something, `must_start` whether some of that may not wait here, so that the buffer
    has to run empty first. The fetcher sets both from a fetch's answer.
    """

    def __init__(self, seat: Seat, concurrency: int, now: float) -> None:
        self._seat, self._concurrency = seat, concurrency
        self.more, self.must_start = True, False
        # Few after a rest, then twice as many each time, so that a burst is shared by the workers that it wakes one by one.
        self._step = STANDING
        self._ended, self._rate = 0, 0.0
        self._rate_at = self._last_end = now

    def ended(self, now: float) -> None:
        """A job has ended."""
        if now - self._last_end > RATE_MEMORY_S:
            self._rate, self._ended, self._rate_at = 0.0, 0, now
        self._ended += 1
        self._last_end = now

    def room(self, now: float) -> tuple[int, int]:
        """How many jobs could start now, and how many more may wait; together at most one fetch."""
        seat = self._seat
        if seat.slots.used > seat.slots.total:
            return 0, 0  # more than `total` run: untracked jobs that could wait no longer were started
        start = min(max(0, seat.free()), MAX_BATCH)
        target = self._buffer_target(now) if seat.may_hoard() else 0
        # Refilled in halves: one fetch for many jobs.
        free = target - seat.waiting
        buffer = free if free * 2 >= target else 0
        return start, max(0, min(buffer, MAX_BATCH - start))

    def _buffer_target(self, now: float) -> int:
        if now - self._last_end > RATE_MEMORY_S:
            self._rate, self._ended, self._rate_at = 0.0, 0, now
        elapsed = now - self._rate_at
        many = self._ended >= 2 * self._concurrency
        if elapsed >= (SHORT_WINDOW_S if many else RATE_WINDOW_S):
            self._rate = (self._rate + self._ended / elapsed) / 2
            self._ended, self._rate_at = 0, now
        return min(BUFFER_TIMES * self._concurrency, int(self._rate * BUFFER_S))

    def want(self, now: float, queues: Sequence[str], most: Mapping[str, int]) -> Want:
        """What could be taken from these queues, at most `most` jobs of each (see Served.plan)."""
        start, buffer = self.room(now)
        if not queues:
            start = buffer = 0
        elif most or (self.must_start and not start):
            buffer = 0
        return Want(start, buffer, queues, most)

    def next_fetch(self, want: Want, *, standing: int = 0, suspects: bool = False) -> int:
        """
        How many jobs the next fetch may start; the one after it may start more.

        Args:
            standing: Places that a standing fetch, which may still be answered, has spoken for.
            suspects: It is for suspects, of which a group comes together.
        """
        step = MAX_BATCH if suspects else self._step
        self._step = min(self._step * 2, MAX_BATCH)
        return min(max(want.start - standing, 1), step) if want.start else 0

    def next_standing(self, want: Want) -> int:
        """How many jobs a fetch that waits in Redis may bring; what comes after a rest begins with few again."""
        self._step = STANDING
        return min(want.start, self._seat.standing(STANDING))
