"""The application that the process tests run; it is configured by the environment alone."""

from __future__ import annotations

import asyncio
import gc
import os
import time

import redis.asyncio

from tests.rights import admin
from tracked_queue import Exponential, TrackedQueue, current_job

app = TrackedQueue()
NS = os.environ.get("PROCESSING_NS", "tq")


async def note(what: str) -> None:
    """Append '<what> <job> <lease> <attempt>' to a list outside of the queue's keys."""
    job = current_job()
    async with redis.asyncio.Redis.from_url(admin(os.environ["REDIS_URL"])) as client:
        await client.rpush(f"notes:{NS}", f"{what} {job.id} {job.lease} {job.attempt}")


@app.task(name="sleep")
async def sleep(seconds: float) -> str:
    await note("start")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await note("cleanup")
        raise
    await note("end")
    return current_job().lease


@app.task(name="short")
async def short(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)


@app.task(name="noop")
async def noop(number: int) -> int:
    return number


@app.task(name="set-aside")
async def set_aside() -> int:
    return gc.get_freeze_count()


@app.task(name="poison", max_attempts=1)
async def poison() -> None:
    await note("start")
    await asyncio.sleep(0.2)
    os._exit(1)


@app.task(name="block")
async def block(seconds: float) -> None:
    await note("start")
    blocking_function(seconds)
    await note("end")


def blocking_function(seconds: float) -> None:
    time.sleep(seconds)


@app.task(name="stubborn")
async def stubborn(seconds: float) -> None:
    await note("start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


@app.task(name="failing", max_attempts=3, retry=Exponential(base=0.01, cap=0.02))
async def failing() -> None:
    await note("start")
    raise ValueError("it fails")


@app.task(name="steps")
async def steps(count: int) -> None:
    await note("start")
    for _ in range(count):
        await note("step")
        await asyncio.sleep(0.1)
