"""Jobs that end, eat, block or hang their process; configured by the environment alone."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import threading
import time

from tracked_queue import TrackedQueue

app = TrackedQueue()

if os.environ.get("POISON_MEMORY"):
    _size = int(os.environ["POISON_MEMORY"])
    resource.setrlimit(resource.RLIMIT_AS, (_size, _size))

running = 0


@app.task(name="one", timeout=60)
async def one(number: int) -> int:
    """Below zero it takes its process with it."""
    global running
    running += 1
    try:
        if number < 0:
            await asyncio.sleep(0.05)
            os._exit(1)
        await asyncio.sleep(0.002)
    finally:
        running -= 1
    return number


@app.task(name="long", timeout=60)
async def long(seconds: float) -> None:
    """Takes its time."""
    await asyncio.sleep(seconds)


@app.task(name="company", timeout=60)
async def company() -> str:
    """Fatal only while another job runs beside it."""
    global running
    running += 1
    try:
        for _ in range(20):
            await asyncio.sleep(0.02)
            if running > 1:
                os._exit(1)
    finally:
        running -= 1
    return "alone"


@app.task(name="pair", timeout=60)
async def pair(other: str) -> str:
    """Two that are fatal only together."""
    here = pairs.setdefault(other, 0) + 1
    pairs[other] = here
    try:
        for _ in range(10):
            await asyncio.sleep(0.02)
            if pairs[other] > 1:
                os._exit(1)
    finally:
        pairs[other] -= 1
    return "well"


pairs: dict[str, int] = {}


@app.task(name="hog", max_attempts=2, retry=[0.05], timeout=60)
async def hog() -> None:
    """Takes all memory that there is, and holds it for a while."""
    held = []
    try:
        while True:
            held.append(bytearray(4 << 20))
    except MemoryError:
        await asyncio.sleep(0.3)
        raise


@app.task(name="spin", timeout=60)
async def spin(seconds: float) -> str:
    """CPU-bound Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return "done"


@app.task(name="deadlock", timeout=60)
async def deadlock() -> None:
    """Waits for a lock that it holds itself."""
    lock = threading.Lock()
    with lock:
        take_again(lock)


def take_again(lock: threading.Lock) -> None:
    lock.acquire()


@app.task(name="regex", timeout=60)
async def regex(length: int) -> str:
    """C code that never lets go of the interpreter: no thread of this process runs, not even the watchdog."""
    re.match(r"(a+)+b", "a" * length)
    return "matched"
