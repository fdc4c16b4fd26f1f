"""The application that the benchmarks run."""

import asyncio
import time

from tracked_queue import Concurrency, TrackedQueue

app = TrackedQueue()


@app.task(name="noop")
async def noop(number: int, text: str) -> None:
    """Nothing: what is left is the queue's own cost."""


@app.task(name="stamp")
async def stamp() -> float:
    """When it started, on this machine's clock."""
    return time.time()


@app.task(name="keyed", queue="lanes", limit=Concurrency(5, key="key"))
async def keyed(key: int) -> None:
    """At most five of a key at a time."""


@app.task(name="nap")
async def nap(seconds: float) -> float:
    """Waits, and says when it was done on this machine's clock."""
    await asyncio.sleep(seconds)
    return time.time()
