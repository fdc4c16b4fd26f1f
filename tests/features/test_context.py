"""What docs/how-to/context.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from tests.harness import running_worker
from tracked_queue import (
    Enqueueing,
    JobContext,
    TrackedQueue,
    UsageError,
    current_job,
)
from tracked_queue.app import producer_of


async def test_lifespan_context_middleware_headers_and_carried_variables(app: TrackedQueue) -> None:
    request_id: ContextVar[str] = ContextVar("request_id")
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, int]]:
        log.append("up")
        yield {"answer": 42}
        log.append("down")

    producer_of(app).definitions.hooks.lifespan, producer_of(app).definitions.hooks.carry = lifespan, (request_id,)

    @app.middleware
    async def outer(job: Any, call_next: Any) -> Any:
        log.append(f"> {job.task}")
        result = await call_next()
        log.append(f"< {result}")
        return result

    @app.enqueue_middleware
    async def stamp(enqueueing: Enqueueing, call_next: Any) -> Any:
        enqueueing.headers["tenant"] = "t1"
        job = await call_next()
        log.append(f"stored {enqueueing.task}")
        return job

    @app.task(name="ask")
    async def ask(ctx: JobContext[dict[str, int]], n: int) -> str:
        return f"{ctx.state['answer'] + n} {ctx.job.headers['tenant']} {request_id.get()} {current_job().state is ctx.state}"

    token = request_id.set("r-1")
    job = await ask.options(headers={"context": "a user's own", "tick_ms": "too"}).enqueue(1)
    (many,) = await app.enqueue_many([ask.call(2)])
    sync = await asyncio.to_thread(ask.enqueue_sync, 3)
    assert log == ["stored ask"] * 3
    request_id.reset(token)  # else the worker of this very context would know it
    async with running_worker(app):
        assert await job.result(10) == "43 t1 r-1 True"
        assert await many.result(10) == "44 t1 r-1 True"
        assert await sync.result(10) == "45 t1 r-1 True"
    assert log[3] == "up" and log[-1] == "down" and "> ask" in log and "< 43 t1 r-1 True" in log
    with pytest.raises(UsageError, match="directly"):
        await ask(1)  # type: ignore[call-arg, arg-type]


async def test_an_app_includes_the_tasks_of_others(app: TrackedQueue) -> None:
    part = TrackedQueue()

    @part.every(3600)
    @part.task(name="part")
    async def of_part() -> str:
        return "part"

    app.include(part)
    assert "part" in app.schedules
    async with running_worker(app):
        assert await (await of_part.enqueue()).result(10) == "part"
    with pytest.raises(UsageError, match="included"):
        app.include(part)
