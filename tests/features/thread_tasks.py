"""An app whose task runs in a child process, which has to import it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tracked_queue import TrackedQueue

app = TrackedQueue()
seen: list[str] = []


@app.thread_lifespan
@contextlib.contextmanager
def lifespan() -> Iterator[None]:
    seen.append("lifespan")
    yield


@app.thread_context
@contextlib.contextmanager
def context() -> Iterator[None]:
    seen.append("context")
    yield
    seen.append("left")


@app.task(name="where", isolate="process")
def where() -> list[str]:
    return list(seen)
