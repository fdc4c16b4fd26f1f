"""
Code that was written for Celery, over tracked_queue: change the import, and rewrite the tasks one by one later.

What has no counterpart is refused with what to do instead; `tracked-queue migrate scan` finds it before.

Source: docs/how-to/celery.md.
"""

from __future__ import annotations

from ...errors import MaxRetriesExceededError
from .app import Celery, current_app, shared_task
from .beat import crontab
from .bound import BoundTask, Request
from .canvas import Signature, chain, chord, group, signature
from .results import AsyncResult, GroupResult
from .tasks import CeleryTask

__all__ = [
    "AsyncResult", "BoundTask", "Celery", "CeleryTask", "GroupResult", "MaxRetriesExceededError", "Request", "Signature",
    "chain", "chord", "crontab", "current_app", "group", "shared_task", "signature",
]  # fmt: skip

# What people import from Celery, and what to write instead.
_MISSING = {
    "SoftTimeLimitExceeded": "in an `async def`, `except asyncio.CancelledError` is the time's end; a plain `def` runs on",
    "Ignore": "return, or raise tracked_queue.Discard()",
    "Reject": "raise tracked_queue.Discard() or tracked_queue.Dead()",
    "Retry": "raise self.retry(...), or tracked_queue.Retry(after=...)",
    "Task": "write a function; what a class did belongs into middleware, a lifespan or a decorator",
    "current_task": "bind=True and self; or tracked_queue.current_job()",
    "states": "compare AsyncResult.state with text: 'SUCCESS'",
    "signals": "use @queue.middleware, a lifespan, @queue.on_failure",
    "chunks": "write group(...) over portions",
    "xmap": "write group(task.s(item) for item in items)",
}


def __getattr__(name: str) -> object:
    if name in _MISSING:
        raise ImportError(f"tracked_queue.compat.celery has no {name}: {_MISSING[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
