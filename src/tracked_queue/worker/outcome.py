"""
What a run's value or exception makes of its job: the one place that decides it. Nothing is recorded or logged here.

Source: docs/how-to/retries.md; lua/settle.lua.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from ..errors import IsolatedError
from ..model.codec import ValueCodec, encode_error, encode_exception
from ..model.context import CurrentJob
from ..model.options import TaskOptions
from ..model.retry import Dead, Discard, Exponential, Retry, Snooze, leaves_of, meant_by, retry_delay
from ..protocol.transitions import OutcomeKind
from .isolated import About, class_name

# A record keeps this much of a reason.
MAX_REASON = 500
_SUCCEEDED = OutcomeKind.SUCCEEDED


class Cause(StrEnum):
    """Why a running job was cancelled; it decides the outcome."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    DOUBT = "doubt"
    LOST = "lost"


class Attempt(Protocol):
    """What the decision needs of a run."""

    attempt: int
    max_attempts: int
    timeout: float | None
    cause: Cause | None


class Decision(NamedTuple):
    """
    What becomes of a job.

    `ms` is how long its record is kept, or for `retry` and `snoozed` how long it waits. `error` is that of a run that failed,
    `spent_by` the same if it used up the attempts, `broken` what the task's own retry function raised, in whose place the
    default delay was taken.
    """

    kind: OutcomeKind
    ms: int = 0
    payload: bytes = b""
    reason: str = ""
    error: BaseException | None = None
    spent_by: BaseException | None = None
    broken: BaseException | None = None


def of_value(value: Any, codec: ValueCodec, keep_ms: int, max_result: int, untracked: bool) -> Decision:
    """The decision on a value that the function returned."""
    if value is None:
        return Decision(_SUCCEEDED, keep_ms)
    payload, problem = b"", ""
    if keep_ms > 0 and not untracked:
        try:
            payload = codec.encode(value)
            if len(payload) > max_result:
                problem = f"result too large: {len(payload)} bytes, max_result is {max_result}"
        except BaseException as error:  # also what a type's own code raises
            problem = f"result not serialisable: {type(value).__qualname__}: {named(error)}"
    elif hasattr(type(value), "__await__"):
        problem = f"result not serialisable: this {type(value).__qualname__} was not awaited, so nothing was done"
    if problem:
        return Decision(OutcomeKind.FAILED, keep_ms, encode_error("ResultError", problem), problem)
    return Decision(_SUCCEEDED, keep_ms, payload)


def of_error(
    error: BaseException,
    run: Attempt,
    options: TaskOptions,
    keep_ms: int,
    chance: Callable[[], float],
    *,
    note: str = "",
) -> Decision:
    """
    The decision on what a run raised, or on one that did not end although it was cancelled (then `note` says so).

    Args:
        keep_ms: How long the record of an ended job stays.
        chance: A random number from 0 to 1, for jitter.
    """
    error, cause = meant_by(error), run.cause
    if cause is Cause.CANCEL:
        return Decision(OutcomeKind.CANCELLED, keep_ms, reason="cancelled while it ran" + note)
    if cause is Cause.TIMEOUT:
        text = f"the attempt took longer than its timeout of {run.timeout:g} s{note}"
        packed = encode_error("TimeoutError", text)
        return _failed(TimeoutError(text), f"TimeoutError: {text}", packed, run, options, keep_ms, chance)
    if cause is not None:
        return Decision(OutcomeKind.INTERRUPTED)
    if isinstance(error, Snooze):
        return Decision(OutcomeKind.SNOOZED, round(error.for_ * 1000), reason=error.reason)
    if isinstance(error, Discard):
        packed = encode_error("Discard", error.reason)
        return Decision(OutcomeKind.FAILED, keep_ms, packed, f"discarded: {error.reason}")
    if isinstance(error, Dead):
        return Decision(OutcomeKind.DEAD, 1, encode_error("Dead", error.reason), f"set aside: {error.reason}")
    if isinstance(error, IsolatedError):
        return _failed(error, error.text, error.packed, run, options, keep_ms, chance)
    return _failed(error, named(error), encode_exception(error), run, options, keep_ms, chance)


def _failed(
    error: BaseException,
    reason: str,
    packed: bytes,
    run: Attempt,
    options: TaskOptions,
    keep_ms: int,
    chance: Callable[[], float],
) -> Decision:
    """The attempt failed: again later, or not, as the task says."""
    if not _is_retried(error, options):
        return Decision(OutcomeKind.FAILED, keep_ms, packed, f"not retried: {reason}", error=error)
    if run.attempt >= run.max_attempts:
        why = f"attempts exhausted ({run.attempt} of {run.max_attempts}): {reason}"
        return Decision(OutcomeKind.DEAD, 1, packed, why, error=error, spent_by=error)
    broken = None
    if isinstance(error, Retry) and error.after is not None:
        seconds = error.after
    else:
        try:
            seconds = retry_delay(options.retry, run.attempt, error, chance)
        except BaseException as problem:  # a function of the user's
            broken, seconds = problem, Exponential().delay(run.attempt, chance)
    return Decision(OutcomeKind.RETRY, round(seconds * 1000), packed, reason, error=error, broken=broken)


def _is_retried(error: BaseException, options: TaskOptions) -> bool:
    return isinstance(error, Retry) or (
        not is_a(error, options.give_up_on, any) and (not options.retry_on or is_a(error, options.retry_on, all))
    )


def is_last(error: BaseException, job: CurrentJob | About, options: TaskOptions) -> bool:
    """Whether the job that raised this has failed for good; of one that was cut short that is not known, so not."""
    error = meant_by(error)
    if isinstance(error, Snooze | asyncio.CancelledError):
        return False
    if isinstance(error, Discard | Dead):
        return True
    return job.last_attempt or not _is_retried(error, options)


def is_a(error: BaseException, kinds: tuple[type[BaseException], ...], which: Callable[[Iterable[bool]], bool]) -> bool:
    """Whether an error is of one of these classes; of a group `any` or `all` of what is in it, unless the group itself is."""
    if isinstance(error, IsolatedError):
        return any(class_name(kind) in error.kinds for kind in kinds)
    return isinstance(error, kinds) or which(isinstance(leaf, kinds) for leaf in leaves_of(error))


def named(error: BaseException) -> str:
    """The class and text of an error, and of those in a group."""
    try:
        within = "; ".join(map(named, leaves_of(error))) if isinstance(error, BaseExceptionGroup) else ""
        return f"{type(error).__qualname__}: {error}{f' ({within})' if within else ''}"
    except BaseException:
        return type(error).__qualname__


_PUBLIC = re.compile(r"(?:attempts exhausted \(\d+ of \d+\): |not retried: )?[A-Za-z_][\w.]*(?=: |$)|[^:]*")


def without_text(reason: str) -> str:
    """A reason without what an error, or the job itself, said: `attempts exhausted (3 of 3): ValueError`."""
    found = _PUBLIC.match(reason)
    return found[0] if found else ""
