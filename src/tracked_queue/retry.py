"""When a thing is tried again: the backoff of jobs, the signal `Retry`, the pauses of those who wait for Redis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .errors import UsageError


class Retry(Exception):
    """
    Raised by a job on purpose: this attempt is over, run again later. It spends an attempt.

    Args:
        after: Seconds until the next attempt; None takes the task's backoff.
        reason: Text for the job's error.
    """

    def __init__(self, after: float | None = None, reason: str = "the job asked for a retry") -> None:
        if after is not None and not (math.isfinite(after) and after >= 0):
            raise UsageError(f"Retry(after={after!r}): after must be a finite number of seconds, 0 or more")
        super().__init__(after, reason)
        self.after, self.reason = after, reason

    def __str__(self) -> str:
        return self.reason


def pauses(first: float, cap: float, random: Callable[[], float]) -> Iterator[float]:
    """Seconds between tries to reach Redis: doubling up to a cap, each with jitter, without end."""
    pause = first
    while True:
        yield pause * (0.5 + random())
        pause = min(cap, pause * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter: a random delay in [0, min(cap, base * 2 ** (attempt - 1)))."""

    base: float = 2.0
    cap: float = 600.0

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed; `random` gives [0, 1)."""
        # 2 ** 64 is past every cap; a larger exponent would only overflow.
        return random() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))
