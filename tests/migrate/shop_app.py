"""An app for the command line."""

from __future__ import annotations

from tracked_queue import TrackedQueue

app = TrackedQueue()


@app.task(name="shop.add")
async def add(a: int, b: int = 1) -> int:
    return a + b
