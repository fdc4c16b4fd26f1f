"""The application that the benchmarks run."""

import time

from tracked_queue import TrackedQueue

app = TrackedQueue()


@app.task(name="noop")
async def noop(number: int, text: str) -> None:
    """Nothing: what is left is the queue's own cost."""


@app.task(name="stamp")
async def stamp() -> float:
    """When it started, on this machine's clock."""
    return time.time()
