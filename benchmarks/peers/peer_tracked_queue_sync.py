"""tracked_queue from code without an event loop: `enqueue_sync`."""

from __future__ import annotations

from typing import Any

from peer_tracked_queue import TASKS, app, worker

from tracked_queue import Job

__all__ = ["worker"]

SETTINGS = "enqueue_sync"


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Job[Any]:
    job: Job[Any] = TASKS[name].enqueue_sync(*args)
    return job


def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    app.enqueue_many_sync([TASKS[name].call(*args) for name, *args in calls])
