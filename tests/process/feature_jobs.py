"""The application of the tests in which a worker dies in the middle of a feature; configured by the environment alone."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

from tests.process.jobs import note
from tracked_queue import Concurrency, Fixed, TrackedQueue, current_job

app = TrackedQueue()

if shift := float(os.environ.get("CLOCK_SHIFT", "0")):
    # A host whose wall clock is wrong; what counts is the server's.
    _true_time, _true_time_ns = time.time, time.time_ns
    time.time = lambda: _true_time() + shift
    time.time_ns = lambda: _true_time_ns() + int(shift * 1e9)


@app.task(name="limited", limit=Concurrency(2))
async def limited(seconds: float) -> None:
    await note("start")
    await asyncio.sleep(seconds)
    await note("end")


@app.task(name="unique", unique="until_done")
async def unique(seconds: float) -> str:
    await note("start")
    await asyncio.sleep(seconds)
    return current_job().lease


@app.task(name="due")
async def due(n: int) -> None:
    await note(f"due{n}")


@app.task(name="member")
async def member(n: int) -> int:
    await note("start")
    await asyncio.sleep(0.3)
    return n


@app.task(name="total")
async def total(parts: list[int]) -> int:
    return sum(parts)


@app.task(name="long-import")
async def long_import(count: int) -> int:
    done = 0
    async for n in current_job().each(range(count), every=1):
        await note(f"item{n}")
        await asyncio.sleep(0.05)
        done += 1
    return done


if os.environ.get("WITH_SCHEDULE"):

    @app.every(1)
    @app.task(name="tick")
    async def tick() -> None:
        at = current_job().scheduled_for
        assert at is not None
        await note(f"tick-{at.timestamp():.0f}")


@app.task(name="burn", isolate="process", timeout=1.0, max_attempts=1)
def burn(seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@app.task(name="segfault", isolate="process", max_attempts=2, retry=Fixed(0))
def segfault() -> None:
    ctypes.string_at(0)


@app.task(name="picky", isolate="process", give_up_on=KeyError, max_attempts=3, retry=Fixed(0))
def picky() -> None:
    raise KeyError("in the child")


@app.task(name="stubborn")
def stubborn(seconds: float) -> None:
    time.sleep(seconds)
