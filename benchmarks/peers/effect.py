"""
What the jobs of every queue do: one 24-byte record in a file, and a start that waits for the measurement to begin.

Imported inside each queue's own environment, so the standard library alone. Times are CLOCK_MONOTONIC, which all processes of a
machine share.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path

RECORD = struct.Struct("<qqq")
"""Nanoseconds, process id, number of the job."""
READY = -1
"""The number in a record that says: this process has its first job, and waits."""
HOLD_S = 600.0
IO_S = 0.005

_folder = Path(os.environ.get("BENCH_FOLDER", "."))
_file = -1
_waits = bool(os.environ.get("BENCH_GATED"))


def now_ns() -> int:
    """Nanoseconds on the clock that all processes share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def record(number: int) -> None:
    """Job `number` runs now."""
    global _file, _waits
    if _file < 0:
        _file = os.open(_folder / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if _waits:
        os.write(_file, RECORD.pack(now_ns(), os.getpid(), READY))
        while not (_folder / "gate").exists():
            time.sleep(0.001)
        _waits = False
    os.write(_file, RECORD.pack(now_ns(), os.getpid(), number))


def noop(number: int, text: str) -> int:
    """A job that does nothing else."""
    record(number)
    return number


async def noop_async(number: int, text: str) -> int:
    """The same for queues that take coroutines alone."""
    record(number)
    return number


def hold(number: int) -> bool:
    """Whether a job that holds its process has to wait; a second run, after the crash, does not."""
    record(number)
    return not (_folder / "crashed").exists()


async def hold_async(number: int) -> None:
    """A long job."""
    if hold(number):
        await asyncio.sleep(HOLD_S)


def hold_sync(number: int) -> None:
    """A long job of a queue without a loop."""
    if hold(number):
        time.sleep(HOLD_S)


async def io_async(number: int, text: str) -> str:
    """Waits for 5 ms, and returns 1 kB."""
    await asyncio.sleep(IO_S)
    record(number)
    return text[:10] * 100


def io_sync(number: int, text: str) -> str:
    """The same without a loop."""
    time.sleep(IO_S)
    record(number)
    return text[:10] * 100
