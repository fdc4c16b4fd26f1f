"""Tasks that a child process can import."""

from __future__ import annotations

import os
from typing import Any

from tracked_queue import TrackedQueue
from tracked_queue.compat.celery import Celery

queue = TrackedQueue()
app = Celery(queue)


@app.task(name="apart", bind=True, options={"isolate": "process"})
def apart(self: Any, n: int) -> list[Any]:
    return [n * 2, os.getpid(), self.request.retries, self.request.id]


@app.task(name="gives up", bind=True, max_retries=1, default_retry_delay=0, options={"isolate": "process"})
def gives_up(self: Any) -> None:
    self.retry()
