"""What docs/how-to/retries.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.features.common import QUICKLY, is_older
from tests.harness import running_worker, wait_until
from tracked_queue import (
    Dead,
    Discard,
    Fixed,
    JobFailedError,
    Retry,
    Snooze,
    State,
    TrackedQueue,
    UsageError,
    current_job,
)


async def test_outcomes_that_a_job_raises_on_purpose(app: TrackedQueue) -> None:
    runs: list[str] = []

    @app.task(name="wish", max_attempts=2, retry=QUICKLY)
    async def wish(what: str) -> str:
        runs.append(what)
        if what == "snooze" and runs.count("snooze") < 4:
            raise Snooze(timedelta(milliseconds=10))
        if what == "retry" and current_job().attempt == 1:
            raise Retry(after=0)
        if what == "discard":
            raise Discard("the user is gone")
        if what == "dead":
            raise Dead("a person has to look")
        return f"{what} in attempt {current_job().attempt}"

    async with running_worker(app):
        jobs = {what: await wish.enqueue(what) for what in ("snooze", "retry", "discard", "dead")}
        assert await jobs["snooze"].result(10) == "snooze in attempt 1", "a snooze spends no attempt"
        assert await jobs["retry"].result(10) == "retry in attempt 2"
        for what, state, reason in (
            ("discard", "failed", "the user is gone"),
            ("dead", "dead", "a person has to look"),
        ):
            with pytest.raises(JobFailedError, match=reason) as found:
                await jobs[what].result(10)
            assert found.value.state == state and runs.count(what) == 1
        assert (await jobs["snooze"].info()).snoozes == 3


async def test_retry_on_and_give_up_on_decide_by_the_exceptions_type(app: TrackedQueue) -> None:
    runs: list[str] = []

    @app.task(name="picky", max_attempts=3, retry=QUICKLY, retry_on=(OSError, KeyError), give_up_on=FileNotFoundError)
    async def picky(kind: str) -> None:
        runs.append(kind)
        raise {"os": OSError, "file": FileNotFoundError, "value": ValueError}[kind]("x")

    async with running_worker(app):
        states = {}
        for kind in ("os", "file", "value"):
            with pytest.raises(JobFailedError) as found:
                await (await picky.enqueue(kind)).result(10)
            states[kind] = found.value.state
    assert states == {"os": "dead", "file": "failed", "value": "failed"}
    assert [runs.count(kind) for kind in ("os", "file", "value")] == [3, 1, 1]


async def test_delays_from_a_function_a_list_and_what_happens_when_the_function_raises(app: TrackedQueue) -> None:
    asked: list[tuple[int, str]] = []

    def delay(attempt: int, error: BaseException) -> float:
        asked.append((attempt, str(error)))
        if attempt == 2:
            raise RuntimeError("a bug in the policy")
        return 0.01

    @app.task(name="computed", max_attempts=3, retry=delay)
    async def computed() -> None:
        raise ValueError("no")

    @app.task(name="listed", max_attempts=3, retry=[0.01, 0.02])
    async def listed() -> int:
        if current_job().attempt < 3:
            raise ValueError("no")
        return current_job().attempt

    async with running_worker(app):
        job = await computed.enqueue()
        assert await (await listed.enqueue()).result(10) == 3
        await wait_until(lambda: len(asked) == 2, what="the second failure")

        async def delayed() -> bool:
            info = await job.info()  # the default's full jitter may be next to nothing, and then it has run again
            return len(info.failures) >= 2 and info.state in (State.SCHEDULED, State.DEAD)

        await wait_until(delayed, what="the default delay in its place")
    assert asked == [(1, "no"), (2, "no")]


async def test_the_last_five_errors_stay_with_the_job_and_the_hook_hears_of_the_end(app: TrackedQueue) -> None:
    told: list[str] = []

    async def tell(job: Any, error: BaseException) -> None:
        told.append(f"{job.task} {job.attempt} {error}")

    @app.task(name="failing", max_attempts=7, retry=Fixed(0), on_exhausted=tell)
    async def failing() -> None:
        raise ValueError(f"attempt {current_job().attempt}")

    async with running_worker(app):
        job = await failing.enqueue()
        with pytest.raises(JobFailedError):
            await job.result(10)
        await wait_until(lambda: told, what="the hook")
    info = await job.info()
    assert [failure.message for failure in info.failures] == [f"attempt {n}" for n in range(3, 8)]
    assert all(failure.at and failure.lease and "ValueError" in failure.traceback for failure in info.failures)
    assert told == ["failing 7 attempt 7"] and info.attempts == 7


async def test_a_job_that_has_not_started_in_time_expires_without_a_run(app: TrackedQueue) -> None:
    ran: list[int] = []

    @app.task(name="soon", expires=0.05)
    async def soon(n: int) -> None:
        ran.append(n)

    late, long = await soon.enqueue(1), await soon.options(expires=timedelta(hours=1)).enqueue(2)
    await wait_until(lambda: is_older(late, 0.06), what="its time to be over")
    async with running_worker(app):
        await long.result(10)
        with pytest.raises(JobFailedError, match="time to start"):
            await late.result(10)
    assert ran == [2] and await late.status() is State.EXPIRED


async def test_a_job_that_has_started_does_not_expire(app: TrackedQueue) -> None:
    """A retry or a snooze beyond `expires` still runs: it has started in time."""

    @app.task(name="started", expires=2.0, max_attempts=2, retry=[2.1])
    async def started(snooze: bool) -> int:
        if current_job().attempt == 1 and not snooze:
            raise ValueError("again")
        if snooze and not current_job().saved:
            await current_job().checkpoint(1)
            raise Snooze(2.1)
        return current_job().attempt

    async with running_worker(app):
        jobs = [await started.enqueue(snooze) for snooze in (False, True)]
        assert [await job.result(10) for job in jobs] == [2, 1]


async def test_a_job_can_extend_its_own_timeout(app: TrackedQueue) -> None:
    @app.task(name="long", timeout=0.1, max_attempts=1)
    async def long(extend: bool) -> str:
        if extend:
            current_job().extend_timeout(10)
        await asyncio.sleep(0.3)
        return "done"

    async with running_worker(app):
        assert await (await long.enqueue(True)).result(10) == "done"
        with pytest.raises(JobFailedError, match="timeout"):
            await (await long.enqueue(False)).result(10)


@pytest.mark.parametrize("bad", [float("nan"), timedelta(days=40000), "1", True])
async def test_nonsense_times_are_refused_at_the_call(app: TrackedQueue, bad: Any) -> None:
    """CASE-45."""
    for name in ("delay", "timeout", "expires"):
        with pytest.raises(UsageError, match=name):
            app.options(**{name: bad})
    with pytest.raises(UsageError):
        Snooze(bad)
