"""What docs/how-to/cancel.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio

import pytest

from tests.features.common import has_state
from tests.harness import running_worker, wait_until
from tracked_queue import (
    Concurrency,
    State,
    TrackedQueue,
    UsageError,
)


async def test_cancel_many_by_task_and_queue(app: TrackedQueue) -> None:
    started = asyncio.Event()

    @app.task(name="one")
    async def one(n: int) -> None:
        started.set()
        await asyncio.sleep(60)

    @app.task(name="two", queue="other", limit=Concurrency(1))
    async def two(n: int) -> None: ...

    jobs = [await one.enqueue(1), await one.options(delay=60).enqueue(2), await two.enqueue(1), await two.enqueue(2)]
    jobs.append(await one.options(after=[jobs[2]], on_failure="ignore").enqueue(3))
    async with running_worker(app, queues=["default"]):
        await started.wait()
        assert await app.cancel_many(task="one") == 3
        assert await app.cancel_many(queue="other") == 2
        for job in jobs:
            await wait_until(lambda job=job: has_state(job, State.CANCELLED), what=f"{job} to be cancelled")
    with pytest.raises(UsageError):
        await app.cancel_many()


async def test_cancel_many_of_more_parked_jobs_than_a_page(app: TrackedQueue) -> None:
    """They leave their list while it is read."""

    @app.task(name="parked")
    async def parked(n: int) -> None: ...

    await app.pause(task="parked")
    jobs = await app.enqueue_many([parked.call(n) for n in range(600)])
    async with running_worker(app):
        await wait_until(lambda: has_state(jobs[-1], State.PARKED), what="all to be parked")
        await wait_until(lambda: has_state(jobs[0], State.PARKED))
    assert await app.cancel_many(task="parked") == 600
    assert await app.cancel_many(task="parked") == 0
