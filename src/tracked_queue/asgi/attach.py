"""A queue that opens and closes with a web application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from .. import log
from ..app import TrackedQueue
from ..errors import UsageError
from .lifespans import INNER, entered


def attach(web: Any, queue: TrackedQueue, *, worker: bool = False) -> None:
    """
    Let a queue open and close with an application of FastAPI or Starlette; its overrides of dependencies are the queue's, too.

    Args:
        web: The application, before it starts.
        queue: The queue.
        worker: Run a worker in the application's own process, for development: what blocks or crashes there takes the web
            application along, and a job that can't be stopped ends the process.

    Raises:
        UsageError: Not such an application, or the queue is attached already.
    """
    router = getattr(web, "router", None)
    inner = getattr(router, "lifespan_context", None)
    if router is None or inner is None:
        raise UsageError(
            f"attach({web!r}, ...): it must be an application of FastAPI or Starlette; for Litestar see tracked_queue.litestar"
        )
    if not isinstance(queue, TrackedQueue):
        raise UsageError(f"attach(..., {queue!r}): it must be a TrackedQueue")
    layer = inner
    while hasattr(layer, INNER):
        if layer.queue is queue:
            raise UsageError("attach: this queue is attached to this application already")
        layer = getattr(layer, INNER)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with queue, entered(app, inner(app)) as state, _worker(queue) if worker else contextlib.nullcontext():
            yield state.yielded

    setattr(lifespan, INNER, inner)
    lifespan.queue = queue  # type: ignore[attr-defined]
    router.lifespan_context = lifespan
    if hasattr(web, "dependency_overrides"):
        web.dependency_overrides.update(queue.dependency_overrides)
        queue.dependency_overrides = web.dependency_overrides


@contextlib.asynccontextmanager
async def _worker(queue: TrackedQueue) -> AsyncIterator[None]:
    log.web_worker_started()
    running = asyncio.create_task(queue.run_worker(handle_signals=False), name="tracked_queue-worker")
    running.add_done_callback(_tell)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


def _tell(running: asyncio.Task[int]) -> None:
    if not running.cancelled():
        error = running.exception()
        log.web_worker_ended(error="" if error is None else f"{type(error).__qualname__}: {error}"[:300])
