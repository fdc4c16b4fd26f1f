"""When a job runs again: the delays between its attempts, and the signals that a job raises on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import UsageError
from ..settings import Seconds
from .checks import check_function, to_seconds


class Signal(Exception):
    """Raised by a job on purpose: not an error, but the outcome that it wants. It stands outside the error tree."""

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

    def __reduce__(self) -> tuple[Any, ...]:
        return Retry, (self.after, self.reason)


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

    def __reduce__(self) -> tuple[Any, ...]:
        return Snooze, (self.for_, self.reason)


class Discard(Signal):
    """There is nothing to do any more: the job ends `failed` at once, with this reason, and is removed after a while."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)


class Dead(Signal):
    """A person has to look: the job is `dead` at once, with this reason, whatever attempts it has left."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)


def leaves_of(error: BaseException) -> list[BaseException]:
    """The errors in a group, however deeply nested; an error that is not a group, alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]


def meant_by(error: BaseException) -> BaseException:
    """
    What a job that raised this wants. A group, as a TaskGroup raises it, means what is in it: Dead, else Discard, else
    the errors as they are, else the Retry or the Snooze that waits longest.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = leaves_of(error)
    for kind in (Dead, Discard):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    retries = [leaf for leaf in leaves if isinstance(leaf, Retry)]
    snoozes = [leaf for leaf in leaves if isinstance(leaf, Snooze)]
    if len(retries) + len(snoozes) < len(leaves):
        return error
    if retries:
        return max(retries, key=lambda retry: -1.0 if retry.after is None else retry.after)
    return max(snoozes, key=lambda snooze: snooze.for_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """
    Exponential backoff with full jitter: a random delay in [0, min(cap, base * 2 ** (attempt - 1))).

    Args:
        base, cap: Seconds, or timedeltas.
    """

    base: Seconds = 2.0
    cap: Seconds = 600.0

    def __post_init__(self) -> None:
        base, cap = to_seconds("Exponential(base)", self.base), to_seconds("Exponential(cap)", self.cap)
        if base > cap:
            raise UsageError(f"Exponential(base={self.base!r}, cap={self.cap!r}): base must not be above cap")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "cap", cap)

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed; `random` gives [0, 1)."""
        base, cap = to_seconds("base", self.base), to_seconds("cap", self.cap)
        # 2 ** 64 is past every cap; a larger exponent would only overflow.
        return random() * min(cap, base * 2.0 ** min(attempt - 1, 64))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same delay after every attempt, spread by `jitter` (a fraction of it, both ways), to disperse a crowd."""

    seconds: Seconds
    jitter: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", to_seconds("Fixed(seconds)", self.seconds))
        jitter: Any = self.jitter
        if not isinstance(jitter, int | float) or isinstance(jitter, bool) or not 0 <= jitter <= 1:
            raise UsageError(f"Fixed(jitter={self.jitter!r}): it must be a number from 0 to 1")

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait."""
        return to_seconds("seconds", self.seconds) * (1 + self.jitter * (2 * random() - 1))


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
RetryArgument = Exponential | Fixed | Sequence[Seconds] | Callable[[int, BaseException], Seconds]


def retry_policy(given: RetryArgument | None) -> RetryPolicy:
    """What `retry=` stands for. Raises UsageError."""
    if given is None:
        return Exponential()
    if isinstance(given, Exponential | Fixed | Delays | Computed):
        return given
    if isinstance(given, list | tuple):
        if not given:
            raise UsageError("retry=[]: give at least one delay, or max_attempts=1 for no retry")
        return Delays(tuple(to_seconds("retry", item) for item in given))
    shape = "Exponential(), Fixed(5), a list of delays, or a function of the attempt's number and the error"
    check_function("retry", given, shape, 2, waits=False)
    return Computed(cast("Callable[[int, BaseException], Seconds]", given))


def retry_delay(policy: RetryPolicy, attempt: int, error: BaseException, random: Callable[[], float]) -> float:
    """Seconds until the next attempt. Raises what the task's own function raises, and UsageError if it returns no delay."""
    if isinstance(policy, Computed):
        return to_seconds("the delay of the retry function", policy.function(attempt, error))
    return policy.delay(attempt, random)
