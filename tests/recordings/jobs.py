"""
What is recorded of a version: jobs in every state, made by `scripts/record.py`, and worked off by tests/process/test_recordings.py.

While they are recorded some of them fail, wait, or stand still until their worker is killed; afterwards each of them succeeds.
"""

from __future__ import annotations

import asyncio
import os

from tracked_queue import Concurrency, Fixed, Job, Rate, Snooze, TrackedQueue, Unique, current_job

RECORDING = "RECORDING_JOBS"
# Times that are over, and times that are not, whenever the recording is played.
SOON_S, NEVER_S = 30.0, 86400 * 365 * 10.0
app = TrackedQueue()


def recording() -> bool:
    return os.environ.get(RECORDING) == "1"


@app.task(name="add")
async def add(a: int, b: int = 0) -> int:
    return a + b


@app.task(name="total")
async def total(results: list[int]) -> int:
    return sum(results)


@app.task(name="fail", max_attempts=5, retry=Fixed(SOON_S))
async def fail(number: int) -> int:
    if recording():
        raise ValueError(f"no {number} yet")
    return number


@app.task(name="die", max_attempts=1)
async def die(number: int) -> int:
    if recording():
        raise ValueError(f"no {number} at all")
    return number


@app.task(name="hang")
async def hang(number: int) -> int:
    job = current_job()
    if not recording():
        return int(job.saved["seen"])
    await job.checkpoint({"seen": number})
    await job.progress(1, 2)
    await asyncio.sleep(3600)
    return 0


@app.task(name="snooze")
async def snooze(number: int) -> int:
    if recording():
        raise Snooze(SOON_S)
    return number


@app.task(name="one", limit=Concurrency(1, key="number"))
async def one(number: int) -> int:
    if recording():
        await asyncio.sleep(3600)
    return number


@app.task(name="rated", limit=Rate(1, per=SOON_S))
async def rated(number: int) -> int:
    return number


@app.task(name="only", unique=Unique(by="number"))
async def only(number: int) -> int:
    return number


if not recording():  # so that its job is parked

    @app.task(name="unknown")
    async def unknown(number: int) -> int:
        return number


@app.every(3600, name="hourly")
@app.task(name="hourly")
async def hourly() -> None:
    """For a schedule with a last tick."""


async def make_jobs() -> dict[str, tuple[Job[int], int]]:
    """One job of each kind, and the result that it has in the end."""
    group = await app.group([add.call(1, 2), hang.call(4)], then=total.step())
    batch = await app.batch([hang.call(5), add.call(6)], complete=total.step())
    assert group.then is not None and batch.complete is not None
    return {
        "in a group": (group.jobs[1], 4),
        "a group's last": (group.then, 7),
        "in a batch": (batch.jobs[0], 5),
        "a batch's last": (batch.complete, 11),
        "a chain's last": (await app.chain(hang.call(8), add.step(1)), 9),
        "succeeded": (await add.enqueue(1, b=2), 3),
        "failed once": (await fail.enqueue(10), 10),
        "dead": (await die.enqueue(11), 11),
        "active": (await hang.enqueue(12), 12),
        "snoozed": (await snooze.enqueue(13), 13),
        "holds a place": (await one.enqueue(14), 14),
        "waits for a place": (await one.enqueue(14), 14),
        "started at a rate": (await rated.enqueue(15), 15),
        "waits for a rate": (await rated.enqueue(16), 16),
        "of no task": (await app.enqueue("unknown", 17), 17),
        "delayed": (await add.options(delay=SOON_S).enqueue(18), 18),
        "unique": (await only.options(delay=SOON_S).enqueue(19), 19),
        "known": (await add.options(known_for=NEVER_S, id="known").enqueue(20), 20),
        "with more": (await add.options(expires=NEVER_S, headers={"tenant": "a"}, queue="other").enqueue(21), 21),
    }
