"""pydocket."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

import effect
from docket import Docket, Worker

# redis-py's default of 100 connections is too few for 100 jobs at a time.
SETTINGS = "concurrency 100, uvloop, max_connections 1000; tight: redelivery_timeout 2 s"
docket: Any = Docket(
    name="bench", url=os.environ["REDIS_URL"] + "?max_connections=1000", execution_ttl=timedelta(hours=1)
)
# The worker finds a task by its function's name.
for name, task in (("noop", effect.noop_async), ("hold", effect.hold_async), ("io", effect.io_async)):
    task.__name__ = name
TASKS: dict[str, Any] = {"noop": effect.noop_async, "hold": effect.hold_async, "io": effect.io_async}


async def open() -> None:
    await docket.__aenter__()
    for name, task in TASKS.items():
        docket.register(task, names=[name])


async def close() -> None:
    await docket.__aexit__(None, None, None)


async def enqueue(name: str, *args: Any) -> Any:
    return await docket.add(TASKS[name])(*args)


async def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    await docket.add_many([docket.call(TASKS[name])(*args) for name, *args in calls])


async def result(execution: Any) -> Any:
    return await execution.get_result(timeout=timedelta(seconds=60))


def worker(concurrency: int, processes: int, tight: bool) -> None:
    import uvloop

    for _ in range(processes - 1):
        if os.fork() == 0:
            break

    async def main() -> None:
        await open()
        lease: dict[str, Any] = {"redelivery_timeout": timedelta(seconds=2)} if tight else {}
        async with Worker(docket, name=f"w{os.getpid()}", concurrency=concurrency, **lease) as running:
            await running.run_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
