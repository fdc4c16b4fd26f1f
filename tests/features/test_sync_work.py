"""What docs/how-to/sync-work.md promises, in a worker of this very loop."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tests.harness import running_worker, wait_until
from tracked_queue import (
    Discard,
    JobFailedError,
    TrackedQueue,
    Unique,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of


async def _never(job: Any, error: BaseException) -> None: ...


async def test_a_plain_def_runs_in_a_thread_and_may_report(app: TrackedQueue) -> None:
    @app.task(name="blocking")
    def blocking(n: int) -> tuple[int, bool]:
        anyio.from_thread.run(current_job().progress, n)
        return n, threading.current_thread() is threading.main_thread()

    async with running_worker(app):
        job = await blocking.enqueue(3)
        assert await job.result(10) == (3, False)
        progress = await job.progress()
        assert progress is not None and progress.done == 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
async def test_whatever_a_thread_raises_is_that_jobs_outcome(app: TrackedQueue, error: type[BaseException]) -> None:
    """CASE-33 for a plain def: the worker and its other jobs go on."""

    @app.task(name="exits", max_attempts=1)
    def exits() -> None:
        raise error(3)

    @app.task(name="fine")
    def fine() -> int:
        return 1

    async with running_worker(app):
        with pytest.raises(JobFailedError) as found:
            await (await exits.enqueue()).result(10)
        assert found.value.error_type == error.__name__
        assert await (await fine.enqueue()).result(10) == 1


async def test_a_job_that_timed_out_while_it_waited_for_a_thread_never_begins(app: TrackedQueue) -> None:
    connections_of(app).settings = replace(app.settings, threads=1)
    began: list[int] = []

    @app.task(name="slow", max_attempts=1)
    def slow(n: int) -> None:
        began.append(n)
        time.sleep(0.4)

    async with running_worker(app):
        first = await slow.enqueue(0)
        await wait_until(lambda: began == [0], what="the first")
        second = await slow.options(timeout=0.05).enqueue(1)
        with pytest.raises(JobFailedError, match="timeout"):
            await second.result(10)
        await first.result(10)
        await (await slow.enqueue(2)).result(10)
    assert began == [0, 2]


async def test_keys_of_a_step_are_made_of_its_own_arguments(app: TrackedQueue) -> None:
    @app.task(name="first")
    async def first() -> int:
        return 1

    @app.task(name="keyed", unique=Unique(by="tenant"))
    async def keyed(value: int, tenant: str = "none") -> str:
        return tenant

    @app.task(name="unclear", unique="until_done")
    async def unclear(value: int) -> None: ...

    jobs = [await app.chain(first.call(), keyed.step(tenant)) for tenant in ("a", "b")]
    assert len({job.id for job in jobs}) == 2
    with pytest.raises(UsageError, match="by="):
        await app.chain(first.call(), unclear.step())
    async with running_worker(app):
        assert [await job.result(10) for job in jobs] == ["a", "b"]


async def test_signals_take_any_reason_and_each_is_used_once(app: TrackedQueue) -> None:
    @app.task(name="reasons")
    async def reasons() -> None:
        raise Discard(ValueError("an error as reason"))

    @app.task(name="twice", max_attempts=1)
    async def twice() -> None:
        for _ in range(2):
            async for _n in current_job().each(range(2)):
                pass

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="an error as reason"):
            await (await reasons.enqueue()).result(10)
        with pytest.raises(JobFailedError, match="used before"):
            await (await twice.enqueue()).result(10)
    with pytest.raises(UsageError, match="on_exhausted"):
        app.task(tracked=False, on_exhausted=_never)
