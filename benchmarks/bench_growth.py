"""
What `make bench-growth` prints: whether cost grows with the backlog, with queues and with instances, how 100,000 orphans come back, and
what long jobs do to short ones. Scripts are timed through one connection, worker processes as they are.

Needs a Redis of 7.0 or newer (percentiles of script calls); `make` brings one.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import newest

from benchmarks.bench import RECOVERERS, TEXT, Results, flush, hold_dead, on_server, recover_all, registered, worker
from benchmarks.bench_tasks import app, nap, noop
from tracked_queue import transitions as t
from tracked_queue.worker.lease import new_lease

SMALL, LARGE = 10_000, 1_000_000
PORTION = 20_000
ROUNDS = 3
QUEUES, INSTANCES = 1_000, 200
ORPHANS = 100_000
SLOTS, MIXED, LONG_S, SHORT_S, LONG_EVERY = 10, 3_000, 0.25, 0.001, 20


async def fill(jobs: int) -> None:
    for at in range(0, jobs, 10_000):
        await app.enqueue_many([noop.call(n, TEXT) for n in range(min(10_000, jobs - at))])


async def fetch_and_settle(jobs: int) -> tuple[float, float]:
    """Jobs a second, and milliseconds of the median fetch, by the scripts alone."""
    lease, number, done, fetches = new_lease("growth"), 0, 0, []
    await app.store.run(t.register(lease, 60, 20, {}))
    began = time.perf_counter()
    while done < jobs:
        number += 1
        asked = time.perf_counter()
        reply = await app.store.run(t.fetch(lease, number, 100, 0, ["default"]))
        fetches.append((time.perf_counter() - asked) * 1000)
        assert isinstance(reply, t.Fetched)
        outcomes = [t.Outcome(job.id, job.delivery, "succeeded", 1000, b"", "") for job in reply.jobs]
        await app.store.run(t.settle(lease, outcomes, 120, 3600))
        done += len(outcomes)
    rate = jobs / (time.perf_counter() - began)
    await app.store.run(t.release(lease, t.End.INTERRUPTED))
    return rate, statistics.median(fetches)


async def bench_backlog(results: Results) -> None:
    """The same portion off a short and off a long queue, in turns."""
    rates: dict[int, list[float]] = {SMALL: [], LARGE: []}
    fetches: dict[int, list[float]] = {SMALL: [], LARGE: []}
    for _ in range(ROUNDS):
        for size in (SMALL, LARGE):
            await flush()
            await fill(size + PORTION)
            rate, fetch = await fetch_and_settle(PORTION)
            rates[size].append(rate)
            fetches[size].append(fetch)
    for size in (SMALL, LARGE):
        results[f"{size:,} queued: fetch and settle /s"] = statistics.median(rates[size])
        results[f"{size:,} queued: median fetch of 100, ms"] = statistics.median(fetches[size])
    results["1,000,000 queued / 10,000 queued, rate"] = statistics.median(rates[LARGE]) / statistics.median(
        rates[SMALL]
    )
    results["1,000,000 queued / 10,000 queued, fetch"] = statistics.median(fetches[LARGE]) / statistics.median(
        fetches[SMALL]
    )


async def timed(calls: Any, count: int = 300) -> float:
    """Median milliseconds of a call."""
    seen = []
    for n in range(count):
        call = calls(n)
        began = time.perf_counter()
        await app.store.run(call)
        seen.append((time.perf_counter() - began) * 1000)
    return statistics.median(seen)


async def bench_breadth(results: Results) -> None:
    """A fetch and a beat beside 1,000 queues and 200 instances."""
    await flush()
    mine = new_lease("mine")
    await app.store.run(t.register(mine, 600, 20, {}))
    few = ["default"]
    many = [f"queue-{n}" for n in range(QUEUES)]
    results["fetch (nothing there), 1 queue, ms"] = await timed(lambda n: t.fetch(mine, n + 1, 100, 0, few))
    results["beat, 1 instance, ms"] = await timed(lambda n: t.heartbeat(mine, 600, 20))
    results["fetch (nothing there), 1,000 queues, ms"] = await timed(lambda n: t.fetch(mine, n + 1001, 100, 0, many))
    for n in range(INSTANCES):
        await app.store.run(t.register(new_lease(f"other-{n}"), 600, 20, {}))
    results["beat, 200 instances, ms"] = await timed(lambda n: t.heartbeat(mine, 600, 20))
    results["fetch (nothing there), 200 instances, ms"] = await timed(lambda n: t.fetch(mine, n + 5001, 100, 0, few))


async def percentile() -> dict[str, float]:
    """Milliseconds of script calls since the counters were reset."""
    (info,) = await app.store.read(("INFO", "latencystats"))
    line = next(line for line in info.decode().splitlines() if "_evalsha:" in line)
    return {part.split("=")[0]: float(part.split("=")[1]) / 1000 for part in line.partition(":")[2].split(",")}


async def bench_recovery(results: Results) -> None:
    """A dead instance with 100,000 jobs, and eight that recover them at once while one enqueues."""
    await flush()
    await app.store.read(("CONFIG", "SET", "latency-tracking-info-percentiles", "50 99 99.9 100"))
    lease = await hold_dead(ORPHANS)
    await app.store.read(("CONFIG", "RESETSTAT"))
    others, stop = 0, False

    async def enqueuer() -> None:
        nonlocal others
        while not stop:
            await noop.enqueue(others, TEXT)
            others += 1

    beside = asyncio.create_task(enqueuer())
    moved, seconds = await recover_all(lease, RECOVERERS)
    stop = True
    await beside
    assert moved == ORPHANS
    results["100,000 orphans back, s"] = seconds
    results["enqueues of a bystander meanwhile /s"] = others / seconds
    for name, value in (await percentile()).items():
        results[f"100,000 orphans: script call {name}, ms"] = value


def ideal(lengths: list[float]) -> float:
    """Seconds that one fair queue and all slots would take for these jobs, in their order."""
    slots = [0.0] * (2 * SLOTS)
    for length in lengths:
        first = min(range(len(slots)), key=slots.__getitem__)
        slots[first] += length
    return max(slots)


async def bench_mixed(results: Results, url: str) -> None:
    """Every twentieth job takes 250 ms, the others 1 ms: two processes with ten slots each against a perfect scheduler."""
    await flush()
    chance = random.Random(7)
    lengths = [LONG_S if chance.randrange(LONG_EVERY) == 0 else SHORT_S for _ in range(MIXED)]
    await app.store.run(t.pause("queue:default"))
    jobs = await app.enqueue_many([nap.call(length) for length in lengths])
    running = worker(url, 2, "--queue", "default", "--concurrency", str(SLOTS))
    try:
        await registered(2)
        await asyncio.sleep(0.5)
        began = time.time()
        await app.store.run(t.resume("queue:default"))
        ended = [await job.result(timeout=60) for job in jobs]
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(20)
    results["mixed lengths: whole run / a perfect scheduler's"] = (max(ended) - began) / ideal(lengths)


async def run(url: str) -> Results:
    results: Results = {}
    async with app:
        await bench_breadth(results)
        await bench_recovery(results)
        await bench_mixed(results, url)
        await bench_backlog(results)
    return results


def main() -> None:
    results = on_server(run, newest())
    for name, value in results.items():
        print(f"{name:<62} {value:>12,.2f}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
