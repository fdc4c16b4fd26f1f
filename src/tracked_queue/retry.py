"""When a thing is tried again: the delays between a job's attempts, the signals that a job raises on purpose, and the pauses
of those who wait for Redis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .errors import UsageError

# A century: beyond it a number of seconds is a mistake, and its milliseconds would leave Redis' exact integers.
MAX_SECONDS = 100 * 366 * 86400.0

Seconds = float | timedelta


def to_seconds(name: str, value: Any, *, above: bool = False, negative: bool = False) -> float:
    """
    A number of seconds, also from a timedelta.

    Raises:
        UsageError: It is no sensible one; `negative` numbers are allowed where the past means now.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
        raise UsageError(f"{name}={value!r}: it must be a number of seconds or a timedelta")
    if number > MAX_SECONDS:
        raise UsageError(f"{name}={value!r}: it must be a number of seconds up to {MAX_SECONDS:.0f}")
    if (above and number <= 0) or (number < 0 and not negative):
        raise UsageError(f"{name}={value!r}: it must be {'above 0' if above else '0 or more'}")
    return float(number)


class Signal(Exception):
    """Raised by a job on purpose: no error, but the outcome that it wants. Stands outside of the error tree."""

    def __init__(self, reason: object) -> None:
        self.reason = str(reason)
        super().__init__(self.reason)

    def __str__(self) -> str:
        return self.reason


class Retry(Signal):
    """
    This attempt is over, run again later. It spends an attempt.

    Args:
        after: Seconds (or a timedelta) until the next attempt; None takes the task's policy.
        reason: Text for the job's error.
    """

    def __init__(self, after: Seconds | None = None, reason: object = "the job asked for a retry") -> None:
        super().__init__(reason)
        self.after = None if after is None else to_seconds("Retry(after)", after)


class Snooze(Signal):
    """
    Not now: run again after a while. It spends no attempt, and may be raised any number of times.

    Args:
        for_: Seconds (or a timedelta) until the next run.
        reason: Text for the log.
    """

    def __init__(self, for_: Seconds, reason: object = "the job asked for a later time") -> None:
        super().__init__(reason)
        self.for_ = to_seconds("Snooze(for_)", for_)


class Discard(Signal):
    """There is nothing to do any more: the job ends `failed` at once, with this reason, and is removed after a while."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)


class Dead(Signal):
    """A person has to look: the job is `dead` at once, with this reason, whatever attempts it has left."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)


def pauses(first: float, cap: float, random: Callable[[], float]) -> Iterator[float]:
    """Seconds between tries to reach Redis: doubling up to a cap, each with jitter, without end."""
    pause = first
    while True:
        yield pause * (0.5 + random())
        pause = min(cap, pause * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Exponential backoff with full jitter: a random delay in [0, min(cap, base * 2 ** (attempt - 1)))."""

    base: float = 2.0
    cap: float = 600.0

    def __post_init__(self) -> None:
        to_seconds("base", self.base)
        to_seconds("cap", self.cap)

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed; `random` gives [0, 1)."""
        # 2 ** 64 is past every cap; a larger exponent would only overflow.
        return random() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same delay after every attempt, spread by `jitter` (a part of it, both ways), so that a crowd comes apart."""

    seconds: float
    jitter: float = 0.1

    def __post_init__(self) -> None:
        to_seconds("Fixed(seconds)", self.seconds)
        if not 0 <= self.jitter <= 1:
            raise UsageError(f"Fixed(jitter={self.jitter!r}): it must be from 0 to 1")

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait."""
        return self.seconds * (1 + self.jitter * (2 * random() - 1))


@dataclass(frozen=True, slots=True)
class Delays:
    """A delay for each attempt, each spread by a tenth; the last one for all that follow."""

    seconds: tuple[float, ...]

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (from 1)."""
        return self.seconds[min(attempt, len(self.seconds)) - 1] * (0.9 + 0.2 * random())


@dataclass(frozen=True, slots=True)
class Computed:
    """Delays from a function of the attempt's number (from 1) and the error."""

    function: Callable[[int, BaseException], Seconds]


RetryPolicy = Exponential | Fixed | Delays | Computed
RetryArgument = RetryPolicy | Sequence[Seconds] | Callable[[int, BaseException], Seconds]


def retry_policy(given: RetryArgument | None) -> RetryPolicy:
    """What `retry=` stands for. Raises UsageError."""
    if given is None:
        return Exponential()
    if isinstance(given, Exponential | Fixed | Delays | Computed):
        return given
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if not given:
            raise UsageError("retry=[]: give at least one delay, or max_attempts=1 for no retry")
        return Delays(tuple(to_seconds("retry", item) for item in given))
    if callable(given):
        return Computed(given)
    raise UsageError(f"retry={given!r}: it must be Exponential(), Fixed(), a list of delays, or a function")


def retry_delay(policy: RetryPolicy, attempt: int, error: BaseException, random: Callable[[], float]) -> float:
    """Seconds until the next attempt. Raises whatever a function of the user's raises, and UsageError for its nonsense."""
    if isinstance(policy, Computed):
        return to_seconds("the delay of the retry function", policy.function(attempt, error))
    return policy.delay(attempt, random)
