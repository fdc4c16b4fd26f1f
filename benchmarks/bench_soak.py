"""
What `make bench-soak` prints: memory of a worker and of Redis over a million jobs of every kind of load, and how long script calls take.

Memory is looked at after each portion; flat means that the last portions are within a tenth of the early ones. Ended records are
kept for a few seconds only, so that a million of them don't stand for a leak.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import uvloop
from scripts.servers import newest

from tracked_queue import Concurrency, Fixed, TrackedQueue, Unique
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer

JOBS = int(os.environ.get("SOAK_JOBS", "1000000"))
PORTION = 20_000
KEPT_S = 5.0
GROWTH = 1.10
SLOW_MS, SLOWEST_MS = 5.0, 50.0
STILL_MS, STILL_S = 3.0, 20.0

app = TrackedQueue(
    os.environ.get("REDIS_URL", "redis://localhost:6379"),
    namespace="soak",
    result_ttl=KEPT_S,
    resend_window=KEPT_S,
    max_connections=8,
)


@app.task(name="noop")
async def noop(n: int) -> None: ...


@app.task(name="value")
async def value(n: int) -> dict[str, int]:
    return {"n": n}


@app.task(name="fails_once", max_attempts=2, retry=Fixed(0.05))
async def fails_once(n: int) -> None:
    from tracked_queue import current_job

    if current_job().attempt == 1:
        raise ValueError("the first attempt fails")


@app.task(name="limited", limit=Concurrency(20, key="key"))
async def limited(key: int) -> None: ...


@app.task(name="unique", unique=Unique(by="key"))
async def unique(key: int) -> None: ...


def calls(first: int) -> list[Any]:
    """A portion: nine plain jobs of ten, and some of each other kind."""
    made: list[Any] = []
    for n in range(first, first + PORTION):
        match n % 40:
            case 0:
                made.append(fails_once.call(n))
            case 1:
                made.append(limited.call(n % 500))
            case 2:
                made.append(unique.call(n))
            case 3:
                made.append(noop.options(delay=0.2).call(n))
            case 4 | 5 | 6 | 7:
                made.append(value.call(n))
            case _:
                made.append(noop.call(n))
    return made


def resident_mb(pid: int) -> float:
    """Of a process and its children."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            if int(path.name) == pid or int(stat[1]) == pid:
                total += int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total / 2**20


async def drained() -> None:
    while (await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("queue", "default"))))[0]:
        await asyncio.sleep(0.02)


async def soak(worker: int) -> tuple[list[float], list[float], float]:
    """Megabytes of the worker and of Redis after each portion, and jobs a second."""
    of_worker, of_redis = [], []
    began = time.perf_counter()
    async with app:
        for first in range(0, JOBS, PORTION):
            await app.enqueue_many(calls(first))
            await drained()
            (info,) = await connections_of(app).store.read(("INFO", "memory"))
            used = next(line for line in info.decode().splitlines() if line.startswith("used_memory:"))
            of_worker.append(resident_mb(worker))
            of_redis.append(int(used.partition(":")[2]) / 2**20)
            if first // PORTION % 5 == 4:
                print(
                    f"{first + PORTION:>9} jobs: worker {of_worker[-1]:7.1f} MB, Redis {of_redis[-1]:7.1f} MB",
                    flush=True,
                )
    return of_worker, of_redis, JOBS / (time.perf_counter() - began)


async def slow_calls() -> tuple[int, int, list[float]]:
    """Script calls in all, those below SLOW_MS, and the milliseconds of the slowest."""
    async with TrackedQueue(app.settings.redis_url, namespace="soak") as asked:
        (reply,) = await connections_of(asked).store.read(("LATENCY", "HISTOGRAM", "evalsha"))
        calls_made = reply[1][1]
        (slow,) = await connections_of(asked).store.read(("SLOWLOG", "GET", "-1"))
    slowest = sorted((entry[2] / 1000 for entry in slow if entry[3][0].upper() == b"EVALSHA"), reverse=True)
    return calls_made, calls_made - len(slowest), slowest


def standstills(core: int | None) -> float:
    """
    How often a second the machine takes the core away for more than STILL_MS from a process that does nothing but look at the clock.

    A script that runs at such a moment takes that much longer; no code of ours can change that.
    """
    if core is not None:
        os.sched_setaffinity(0, [core])
    began = last = time.perf_counter()
    seen = 0
    while last - began < STILL_S:
        now = time.perf_counter()
        seen += now - last > STILL_MS / 1000
        last = now
    return seen / STILL_S


def flat(values: list[float]) -> bool:
    """Whether the last fifth is within a tenth of the second one; the first is the warm-up."""
    fifth = max(1, len(values) // 5)
    early, late = sorted(values[fifth : 2 * fifth]), sorted(values[-fifth:])
    return late[len(late) // 2] <= early[len(early) // 2] * GROWTH


def main() -> int:
    server = RedisServer(
        "--slowlog-log-slower-than", str(int(SLOW_MS * 1000)), "--slowlog-max-len", "5000", program=newest()
    )
    core: int | None = None
    if hasattr(os, "sched_setaffinity") and server.process is not None and len(os.sched_getaffinity(0)) > 1:
        # A core for Redis: else what is measured is how often the machine takes it away in the middle of a script.
        cores = sorted(os.sched_getaffinity(0))
        core = cores[-1]
        os.sched_setaffinity(server.process.pid, [core])
        os.sched_setaffinity(0, cores[:-1])
    environment = {**os.environ, "REDIS_URL": server.url}
    command = [sys.executable, "-m", "tracked_queue", "worker", "benchmarks.bench_soak:app", "--log-level", "error"]
    worker = subprocess.Popen(command, env=environment)
    os.environ["REDIS_URL"] = server.url
    app.configure(redis_url=server.url)
    try:
        of_worker, of_redis, rate = uvloop.run(soak(worker.pid))
        calls_made, below, slowest = uvloop.run(slow_calls())
    finally:
        worker.terminate()
        worker.wait()
        server.close()
    share = below / calls_made
    print(f"{JOBS} jobs, {rate:,.0f}/s from end to end")
    print(f"worker (supervisor and child): {min(of_worker):.1f} to {max(of_worker):.1f} MB, flat: {flat(of_worker)}")
    print(f"Redis: {min(of_redis):.1f} to {max(of_redis):.1f} MB, flat: {flat(of_redis)}")
    print(f"script calls: {calls_made:,}, {share:.3%} below {SLOW_MS:g} ms; slowest: {slowest[:3] or 'none above'} ms")
    print(
        f"the machine itself stood still for more than {STILL_MS:g} ms {standstills(core):.2f} times a second on that core"
    )
    well = flat(of_worker) and flat(of_redis) and share >= 0.999 and not [ms for ms in slowest if ms > SLOWEST_MS]
    print("within the bounds" if well else "NOT within the bounds")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
