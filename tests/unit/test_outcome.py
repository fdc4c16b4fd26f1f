"""What a value or an exception makes of a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tracked_queue import Dead, Discard, Retry, Snooze
from tracked_queue.errors import IsolatedError
from tracked_queue.model.codec import ValueCodec, decode_error, encode_error
from tracked_queue.model.options import TaskOptions
from tracked_queue.model.retry import Fixed, retry_policy
from tracked_queue.protocol.transitions import OutcomeKind
from tracked_queue.worker.outcome import Cause, Decision, of_error, of_value

K = OutcomeKind
KEEP_MS = 7000


@dataclass
class Run:
    attempt: int = 1
    max_attempts: int = 3
    timeout: float | None = 5.0
    cause: Cause | None = None


def raised(error: BaseException, run: Run | None = None, **options: Any) -> Decision:
    options.setdefault("retry", Fixed(10, jitter=0))
    return of_error(error, run or Run(), TaskOptions(**options), KEEP_MS, lambda: 0.5)


def returned(value: Any, kind: Any = Any, keep_ms: int = KEEP_MS, *, untracked: bool = False) -> Decision:
    return of_value(value, ValueCodec(kind), keep_ms, 100, untracked)


@pytest.mark.parametrize(
    ("error", "kind", "ms", "reason"),
    [
        (ValueError("no"), K.RETRY, 10_000, "ValueError: no"),
        (Retry(reason="later"), K.RETRY, 10_000, "Retry: later"),
        (Retry(2, reason="later"), K.RETRY, 2000, "Retry: later"),
        (Snooze(timedelta(seconds=3)), K.SNOOZED, 3000, None),
        (Discard("done"), K.FAILED, KEEP_MS, "discarded: done"),
        (Dead("look"), K.DEAD, 1, "set aside: look"),
        (IsolatedError("ValueError: in a child", encode_error("ValueError", "x"), frozenset()), K.RETRY, 10_000, "ValueError: in a child"),
        (SystemExit(3), K.RETRY, 10_000, "SystemExit: 3"),
        (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), K.RETRY, 10_000, None),
        (ExceptionGroup("a wish", [Snooze(4)]), K.SNOOZED, 4000, None),
    ],
)  # fmt: skip
def test_an_exception(error: BaseException, kind: OutcomeKind, ms: int, reason: str | None) -> None:
    found = raised(error)
    assert (found.kind, found.ms) == (kind, ms) and (reason is None or found.reason == reason)
    assert found.spent_by is None and found.broken is None


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.CANCEL, K.CANCELLED),
        (Cause.SHUTDOWN, K.INTERRUPTED),
        (Cause.DOUBT, K.INTERRUPTED),
        (Cause.TIMEOUT, K.RETRY),
    ],
)
def test_why_it_was_cancelled_counts_and_not_what_it_raised_then(cause: Cause, kind: OutcomeKind) -> None:
    for error in (BaseException(), Dead("no"), Snooze(1)):
        assert raised(error, Run(cause=cause)).kind is kind
    assert "timeout of 5 s" in raised(BaseException(), Run(cause=Cause.TIMEOUT)).reason


def test_the_last_attempt_is_dead_and_says_by_which_error() -> None:
    error = ValueError("no")
    found = raised(error, Run(attempt=3))
    assert found.kind is K.DEAD and found.spent_by is error
    assert found.reason == "attempts exhausted (3 of 3): ValueError: no"
    late = raised(BaseException(), Run(attempt=3, cause=Cause.TIMEOUT))
    assert late.kind is K.DEAD and isinstance(late.spent_by, TimeoutError)


@pytest.mark.parametrize(
    ("options", "error", "kind"),
    [
        ({"retry_on": (ValueError,)}, ValueError(), K.RETRY),
        ({"retry_on": (ValueError,)}, KeyError(), K.FAILED),
        ({"give_up_on": (KeyError,)}, KeyError(), K.FAILED),
        ({"give_up_on": (KeyError,)}, Retry(reason="all the same"), K.RETRY),
        ({"give_up_on": (KeyError,)}, ExceptionGroup("g", [ValueError(), KeyError()]), K.FAILED),
        ({"retry_on": (ValueError,)}, ExceptionGroup("g", [ValueError(), KeyError()]), K.FAILED),
        ({"retry_on": (ValueError,)}, ExceptionGroup("g", [ValueError()]), K.RETRY),
        ({"retry_on": (ValueError,)}, IsolatedError("x", b"", frozenset({"builtins.ValueError"})), K.RETRY),
        ({"retry_on": (ValueError,)}, IsolatedError("x", b"", frozenset({"builtins.KeyError"})), K.FAILED),
    ],
)
def test_what_the_task_says(options: dict[str, Any], error: BaseException, kind: OutcomeKind) -> None:
    assert raised(error, **options).kind is kind


def test_a_retry_function_that_raises_costs_the_job_nothing() -> None:
    def broken(attempt: int, error: BaseException) -> float:
        raise ZeroDivisionError

    found = raised(ValueError(), retry=retry_policy(broken))
    assert found.kind is K.RETRY and isinstance(found.broken, ZeroDivisionError) and found.ms == 1000


def test_a_value() -> None:
    assert returned(None) == Decision(K.SUCCEEDED, KEEP_MS)
    assert returned(5) == Decision(K.SUCCEEDED, KEEP_MS, b"\x05")
    assert returned(5, keep_ms=0).payload == b"", "nothing keeps it"
    assert returned(object(), untracked=True).kind is K.SUCCEEDED


@pytest.mark.parametrize(("value", "problem"), [("x" * 200, "too large: 202 bytes"), (object(), "not serialisable")])
def test_a_value_that_cannot_be_kept(value: Any, problem: str) -> None:
    found = returned(value)
    error = decode_error(found.payload)
    assert found.kind is K.FAILED and problem in found.reason and error is not None and error.type == "ResultError"


async def test_a_coroutine_that_nobody_awaited() -> None:
    async def work() -> None: ...

    coroutine = work()
    assert "was not awaited" in returned(coroutine, keep_ms=0).reason
    coroutine.close()
