"""The application of `demo --incidents`: jobs that do what goes wrong in the night."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from ..app import TrackedQueue
from ..model.constraints import Concurrency

app = TrackedQueue(namespace="incidents")


@app.task(name="demo.report", queue="reports", max_attempts=1)
async def report(seconds: float) -> str:
    """Takes a while, and is safe to run again."""
    await asyncio.sleep(seconds)
    return "done"


@app.task(name="demo.compute", queue="reports", max_attempts=1)
async def compute(seconds: float) -> None:
    """Computes in the event loop, which nothing else can use meanwhile."""
    time.sleep(seconds)  # noqa: ASYNC251  (that is the incident)


@app.task(name="demo.print", queue="reports", timeout=None, limit=Concurrency(1, name="printer"))
async def print_page(page: int) -> None:
    """The first page never comes out."""
    if page == 1:
        await asyncio.Event().wait()


@app.task(name="demo.import", queue="imports")
async def import_row(row: int) -> None:
    """One row takes the whole process with it, as a segfault or the kernel does when memory runs out."""
    await asyncio.sleep(0.2)
    if row == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="demo.invoice", queue="invoices")
async def invoice(number: int) -> None:
    """Nobody serves its queue."""
