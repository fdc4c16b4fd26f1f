"""What docs/how-to/progress.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.features.common import QUICKLY
from tests.harness import running_worker
from tracked_queue import (
    JobFailedError,
    TrackedQueue,
    current_job,
)


async def test_progress_and_lines_are_streamed_and_stay_readable(app: TrackedQueue) -> None:
    @app.task(name="steps")
    async def steps() -> str:
        me = current_job()
        for n in range(3):
            await me.progress(n, 3, f"step {n}")
            await me.log(f"line {n}")
            await asyncio.sleep(0.2)
        return "done"

    job = await steps.enqueue()
    seen = []
    async with running_worker(app):
        async for info in job.watch():
            if info.progress:
                seen.append((info.progress.done, info.progress.note))
    # A watcher sees the newest state: of changes that come at once it may see only the last.
    assert seen[-1] == (2, "step 2") and set(seen) <= {(n, f"step {n}") for n in range(3)} and len(set(seen)) >= 2
    info = await job.info()
    assert [line.text for line in info.lines] == ["line 0", "line 1", "line 2"] and info.result == "done"


async def test_the_last_hundred_lines_stay(app: TrackedQueue) -> None:
    @app.task(name="chatty")
    async def chatty() -> None:
        for n in range(130):
            await current_job().log(str(n))

    async with running_worker(app):
        job = await chatty.enqueue()
        await job.result(10)
    assert [line.text for line in (await job.info()).lines] == [str(n) for n in range(30, 130)]


async def test_a_retry_resumes_where_the_checkpoint_is(app: TrackedQueue) -> None:
    done: list[int] = []

    @app.task(name="import", max_attempts=3, retry=QUICKLY)
    async def import_all() -> int:
        async for n in current_job().each(range(10), every=2):
            if n == 5 and current_job().attempt == 1:
                raise ValueError("in the middle")
            done.append(n)
        return len(done)

    @app.task(name="saved", max_attempts=2, retry=QUICKLY)
    async def saved() -> Any:
        if current_job().saved is None:
            await current_job().checkpoint({"page": 3, "ids": [1, 2]})
            raise ValueError("in the middle")
        return current_job().saved

    async with running_worker(app):
        assert await (await import_all.enqueue()).result(10) == 11
        assert done == [0, 1, 2, 3, 4, 4, *range(5, 10)], "what came after the last checkpoint came again"
        assert await (await saved.enqueue()).result(10) == {"page": 3, "ids": [1, 2]}


async def test_a_checkpoint_that_can_not_be_kept_is_refused(app: TrackedQueue) -> None:
    @app.task(name="bad", max_attempts=1)
    async def bad() -> None:
        await current_job().checkpoint({1, 2})

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="checkpoint"):
            await (await bad.enqueue()).result(10)
