"""SAQ."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import effect
from saq import Queue, Worker

TIGHT = bool(os.environ.get("BENCH_TIGHT"))
SETTINGS = "concurrency 100, uvloop; tight: heartbeat 2 s, sweep every second, retries 10"
queue: Any = Queue.from_url(os.environ["REDIS_URL"], max_concurrent_ops=100)
OPTIONS: dict[str, Any] = {"timeout": 0, "retries": 10, **({"heartbeat": 2} if TIGHT else {})}


async def noop(context: Any, *, number: int, text: str) -> int:
    return effect.noop(number, text)


async def hold(context: Any, *, number: int) -> None:
    if TIGHT and effect.hold(number):
        for _ in range(600):
            await asyncio.sleep(1)
            await context["job"].update()
    elif not TIGHT:
        await effect.hold_async(number)


async def io(context: Any, *, number: int, text: str) -> str:
    return await effect.io_async(number, text)


async def open() -> None:
    await queue.connect()


async def close() -> None:
    await queue.disconnect()


async def enqueue(name: str, number: int, text: str | None = None) -> Any:
    options = OPTIONS if name == "hold" else {}
    if text is None:
        return await queue.enqueue(name, number=number, **options)
    return await queue.enqueue(name, number=number, text=text, **options)


async def result(job: Any) -> Any:
    await job.refresh(until_complete=60)
    return job.result


def worker(concurrency: int, processes: int, tight: bool) -> None:
    import uvloop

    for _ in range(processes - 1):
        if os.fork() == 0:
            break

    async def main() -> None:
        timers: Any = {"sweep": 1} if tight else None
        await Worker(queue, functions=[noop, hold, io], concurrency=concurrency, timers=timers).start()

    uvloop.run(main())
