"""What docs/how-to/unique.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.features.common import has_state, is_older
from tests.harness import running_worker, wait_until
from tracked_queue import (
    Discard,
    DuplicateJobError,
    JobNotFoundError,
    State,
    TrackedQueue,
    Unique,
    UsageError,
)
from tracked_queue.app import connections_of


async def _created(task: Any) -> bool:
    return bool((await task.enqueue()).created)


async def test_200_enqueues_of_one_unique_key_store_one_job(app: TrackedQueue) -> None:
    """CASE-46: also when the arguments are given in another way."""

    @app.task(name="once", unique="until_done")
    async def once(user: int, locale: str = "en") -> str:
        return locale

    calls: list[Callable[[], Any]] = [
        lambda: once.enqueue(1), lambda: once.enqueue(user=1), lambda: once.enqueue(1, locale="en"),
    ]  # fmt: skip
    jobs = await asyncio.gather(*(calls[n % 3]() for n in range(200)))
    assert len({job.id for job in jobs}) == 1 and sum(job.created for job in jobs) == 1
    assert (await once.enqueue(2)).created
    async with running_worker(app):
        assert await jobs[7].result(10) == "en"
        assert (await once.enqueue(1)).created, "CASE-47: the key is free while the old result is kept"
        assert await jobs[0].result(10) == "en"


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "dead", "expired"])
async def test_the_key_is_free_after_every_end(app: TrackedQueue, end: str) -> None:
    """CASE-47."""

    @app.task(name="ends", unique="until_done", max_attempts=1, expires=0.05 if end == "expired" else None)
    async def ends() -> None:
        if end == "failed":
            raise Discard("x")
        if end == "dead":
            raise ValueError("x")

    job = await ends.enqueue()
    assert not (await ends.enqueue()).created
    if end == "cancelled":
        await job.cancel()
    if end == "expired":
        await wait_until(lambda: is_older(job, 0.06))
    async with running_worker(app):
        await wait_until(lambda: has_state(job, State(end)), what=end)
        assert (await ends.enqueue()).created


async def test_conflicts_reject_and_replace(app: TrackedQueue) -> None:
    @app.task(name="rejecting", unique=Unique(by="user", conflict="reject"))
    async def rejecting(user: int, text: str) -> None: ...

    @app.task(name="debounced", unique=Unique("started", by="user", conflict="replace"))
    async def debounced(user: int, text: str) -> str:
        return text

    first = await rejecting.enqueue(1, "a")
    with pytest.raises(DuplicateJobError) as found:
        await rejecting.enqueue(1, "b")
    assert found.value.job_id == first.id

    with pytest.raises(UsageError, match="conflict='replace'"):
        Unique(max_wait=5)
    with pytest.raises(UsageError, match="max_wait"):
        Unique(conflict="replace", max_wait=-1)
    job = await debounced.options(delay=0.2).enqueue(1, "old")
    due = (await job.info()).due_at
    again = await debounced.options(delay=0.4).enqueue(1, "new")
    assert again.id == job.id and not again.created
    later = (await job.info()).due_at
    assert due and later and later > due, "the timer starts again"
    async with running_worker(app):
        assert await job.result(10) == "new"


async def test_a_window_holds_the_key_whatever_the_job_does(app: TrackedQueue) -> None:
    @app.task(name="throttled", unique=Unique(window=0.3))
    async def throttled() -> int:
        return 1

    async with running_worker(app):
        job = await throttled.enqueue()
        await job.result(10)
        again = await throttled.enqueue()
        assert not again.created and await again.result(10) == 1
        await wait_until(lambda: _created(throttled), what="the window to be over")


async def test_until_started_lets_a_job_enqueue_its_successor(app: TrackedQueue) -> None:
    """CASE-49: twenty runs, never two at once."""
    runs = 0
    together = 0

    @app.task(name="chained", unique="until_started")
    async def chained() -> None:
        nonlocal runs, together
        together += 1
        assert together == 1
        runs += 1
        if runs < 20:
            assert (await chained.options(delay=0.01).enqueue()).created
        together -= 1

    async with running_worker(app):
        await chained.enqueue()
        await wait_until(lambda: runs == 20, what="20 runs")


async def test_a_known_id_is_enqueued_once_whatever_has_become_of_its_job(app: TrackedQueue) -> None:
    runs: list[int] = []

    @app.task(name="hook", keep_result=False)
    async def hook(n: int) -> None:
        runs.append(n)

    once = hook.options(id="webhook-1", known_for=60)
    async with running_worker(app):
        job = await once.enqueue(1)
        await job.result(10)
        store = connections_of(app).store_of(job.id)
        await store.read(("DEL", store.keys.named("job", job.id)))  # as after result_ttl
        again = await once.enqueue(1)
        assert not again.created and again.id == job.id
        (many,) = await app.enqueue_many([once.call(1)])
        assert not many.created and not once.enqueue_sync(1).created
        with pytest.raises(JobNotFoundError):
            await again.info()
        plain = await hook.options(id="webhook-1").enqueue(2)  # it asks for nothing
        assert plain.created
        await plain.result(10)
    assert runs == [1, 2]
    with pytest.raises(UsageError, match="known_for: it is about an id of your own"):
        hook.options(known_for=60)
    with pytest.raises(UsageError, match="known_for=-1"):
        hook.options(id="x", known_for=-1)
