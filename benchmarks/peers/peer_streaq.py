"""streaq."""

from __future__ import annotations

import os
from typing import Any

import effect
from streaq import Worker

TIGHT = bool(os.environ.get("BENCH_TIGHT"))
SETTINGS = "concurrency 100, prefetch 100; tight: idle_timeout 2 s"
app: Any = Worker(
    redis_url=os.environ["REDIS_URL"], concurrency=100, prefetch=100, anyio_kwargs={"use_uvloop": True},
    **({"idle_timeout": 2} if TIGHT else {}),
)  # fmt: skip


TASKS: dict[str, Any] = {
    "noop": app.task(silent=True)(effect.noop_async),
    "hold": app.task(silent=True)(effect.hold_async),
    "io": app.task(silent=True)(effect.io_async),
}


async def open() -> None:
    await app.__aenter__()


async def close() -> None:
    await app.__aexit__(None, None, None)


async def enqueue(name: str, *args: Any) -> Any:
    return await TASKS[name].enqueue(*args)


async def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    await app.enqueue_many([TASKS[name].enqueue(*args) for name, *args in calls])


async def result(task: Any) -> Any:
    return await task.result(timeout=60)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    app.concurrency = concurrency
    app.run_sync()
