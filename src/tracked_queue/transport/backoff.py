"""The pauses between tries to reach Redis."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0


def pauses(first: float, cap: float, chance: Callable[[], float]) -> Iterator[float]:
    """Seconds between tries to reach Redis: doubling up to a cap, each with jitter, without end."""
    pause = first
    while True:
        yield pause * (0.5 + chance())
        pause = min(cap, pause * 2)


def client_pauses() -> Iterator[float]:
    """Seconds between a producer's or a waiter's tries."""
    return pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)
