"""What the tests of shards share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from tracked_queue import Job, TrackedQueue
from tracked_queue.app import connections_of


def app_at(url: str, namespace: str, shards: int, **settings: Any) -> TrackedQueue:
    """An app with a few tasks and times short enough for tests."""
    values: dict[str, Any] = {
        "heartbeat_interval": 0.2, "heartbeat_ttl": 4.0, "recovery_interval": 0.3, "block": 1.0, "enqueue_timeout": 20.0,
        "cancel_grace": 0.5, "concurrency": 20, **settings,
    }  # fmt: skip
    made = TrackedQueue(url, namespace=namespace, shards=shards, **values)

    @made.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    @made.task(name="slow")
    async def slow(seconds: float) -> str:
        if namespace in Ran.of:
            Ran.of[namespace].running += 1
        await asyncio.sleep(seconds)
        return "slept"

    @made.task(name="total")
    async def total(values: list[int]) -> int:
        return sum(values)

    return made


class Ran:
    """A task that notes the values that it ran with."""

    of: dict[str, Ran] = {}  # noqa: RUF012  (by namespace)

    def __init__(self, app: TrackedQueue) -> None:
        self.values: list[int] = []
        self.running = 0
        Ran.of[app.settings.namespace] = self

        @app.task(name="ran")
        async def ran(value: int) -> int:
            await asyncio.sleep(0.01)
            self.values.append(value)
            return value

        self.task = ran


def task_of(app: TrackedQueue, name: str) -> Any:
    """A task by its name."""
    return app.tasks.get(name)


def by_shard(app: TrackedQueue, jobs: Iterable[Job[Any]]) -> dict[int, list[Job[Any]]]:
    """Jobs by the shard that they are in."""
    found: dict[int, list[Job[Any]]] = {}
    for job in jobs:
        found.setdefault(connections_of(app).shards.of_id(job.id), []).append(job)
    return found
