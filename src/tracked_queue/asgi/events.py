"""A job's progress as server-sent events, for a browser's `EventSource`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from ..errors import JobNotFoundError, StoreUnavailableError, UsageError
from ..model.checks import to_seconds
from ..model.job import Job
from ..model.plain import plain
from ..model.record import JobInfo
from ..settings import Seconds

# A line that says nothing keeps a proxy from closing a quiet connection.
QUIET_S = 10.0
# How soon a browser comes again, in ms.
AGAIN_MS = 1000


async def job_events(job: Job[Any], *, result: bool = False, seconds: Seconds = 30.0) -> StreamingResponse:
    """
    An answer that streams how far a job is, until it has ended.

    Each event's data is JSON: `id`, `state`, `done`, `total`, `note`; the last one has the name `end`, and with `result` also
    the job's `result`. Nothing else of the job is told, above all no error's text. Who may see it is yours to decide before.

    Args:
        seconds: The answer ends after so long, and the browser asks again by itself: a server that shuts down waits for open
            answers.

    Raises:
        HTTPException: 404, there is no such job; 503, Redis is away.
        UsageError: `seconds` is no span of time.
    """
    limit = to_seconds("job_events: seconds", seconds, above=True)
    try:
        await job.info()
    except (JobNotFoundError, UsageError):  # or its id can't be one
        raise HTTPException(404, "there is no such job") from None
    except StoreUnavailableError:
        raise HTTPException(503, "the queue is not available") from None
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_stream(job, result, limit), media_type="text/event-stream", headers=headers)


async def _stream(job: Job[Any], result: bool, seconds: float) -> AsyncIterator[str]:
    yield f"retry: {AGAIN_MS}\n\n"
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    watching = job.watch()
    coming: asyncio.Future[JobInfo] | None = None
    try:
        while (left := end - loop.time()) > 0:
            coming = coming or asyncio.ensure_future(anext(watching))
            await asyncio.wait({coming}, timeout=min(left, QUIET_S))
            if not coming.done():
                yield ": \n\n"
                continue
            try:
                info = coming.result()
            except (StopAsyncIteration, JobNotFoundError, StoreUnavailableError):
                return
            coming = None
            yield _event(info, result)
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        with contextlib.suppress(Exception):
            await watching.aclose()  # type: ignore[attr-defined]


def _event(info: JobInfo, result: bool) -> str:
    progress = info.progress
    told: dict[str, Any] = {
        "id": info.id, "state": info.state.value, "done": progress.done if progress else None,
        "total": progress.total if progress else None, "note": progress.note if progress else "",
    }  # fmt: skip
    if info.state.ended and result:
        told["result"] = info.result
    told = {name: plain(value, exact=True) for name, value in told.items()}
    name = "event: end\n" if info.state.ended else ""
    return f"{name}data: {json.dumps(told)}\n\n"
