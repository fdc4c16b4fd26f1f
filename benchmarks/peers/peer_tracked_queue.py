"""tracked_queue itself."""

from __future__ import annotations

import os
import sys
from typing import Any

import effect

from tracked_queue import Job, TrackedQueue

SETTINGS = "defaults, concurrency 100; tight: heartbeat_ttl 2 s, heartbeat_interval 0.5 s"
app = TrackedQueue(os.environ["REDIS_URL"])


TASKS: dict[str, Any] = {
    "noop": app.task(name="noop")(effect.noop_async),
    "untracked": app.task(name="untracked", tracked=False)(effect.noop_async),
    "hold": app.task(name="hold", timeout=None)(effect.hold_async),
    "io": app.task(name="io")(effect.io_async),
}


async def open() -> None:
    await app.__aenter__()


async def close() -> None:
    await app.__aexit__(None, None, None)


async def enqueue(name: str, *args: Any) -> Job[Any]:
    job: Job[Any] = await TASKS[name].enqueue(*args)
    return job


async def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    await app.enqueue_many([TASKS[name].call(*args) for name, *args in calls])


async def result(job: Job[Any]) -> Any:
    return await job.result(timeout=60)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    options = ["--heartbeat-ttl", "2", "--heartbeat-interval", "0.5"] if tight else []
    os.execv(
        sys.executable,
        [
            sys.executable, "-m", "tracked_queue", "worker", "peer_tracked_queue:app", "--log-level", "error",
            "--processes", str(processes), "--concurrency", str(concurrency), *options,
        ],
    )  # fmt: skip
