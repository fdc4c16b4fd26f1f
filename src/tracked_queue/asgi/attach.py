"""A queue that opens and closes with a web application."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator
from typing import Any

from .. import log
from ..app import TrackedQueue, producer_of
from ..errors import UsageError
from .lifespans import WebState, entered, in_worker, served

# The queues of each application.
_attached: weakref.WeakKeyDictionary[Any, list[TrackedQueue]] = weakref.WeakKeyDictionary()


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
    if queue in _attached.setdefault(web, []):
        raise UsageError("attach: this queue is attached to this application already")
    _attached[web].append(queue)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        if in_worker.get():
            async with inner(app) as yielded:
                yield yielded
            return
        own = _worker if worker else _no_worker
        async with queue, entered(app, inner(app)) as (state, yielded), own(queue, state):
            yield yielded

    router.lifespan_context = lifespan
    if hasattr(web, "dependency_overrides"):
        # Looked up at each use: it may be set to another dict.
        producer_of(queue).definitions.hooks.further_overrides.append(lambda: web.dependency_overrides)


@contextlib.asynccontextmanager
async def _no_worker(queue: TrackedQueue, state: WebState) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _worker(queue: TrackedQueue, state: WebState) -> AsyncIterator[None]:
    log.web_worker_started()
    token = served.set(state)
    try:
        running = asyncio.create_task(queue.run_worker(handle_signals=False), name="tracked_queue-worker")
    finally:
        served.reset(token)
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
