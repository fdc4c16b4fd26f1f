"""
What `make bench` prints: rates, latencies, idle cost, memory and recovery of this checkout, and the floor beside them.

The floor is what the same scripts reach through the same connections with nothing around them. Machines are shared and
noisy: compare the ratios of one run, not the absolute figures of two.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import version_of

from benchmarks.bench_tasks import app, keyed, noop, stamp
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.transport.embedded import find_server
from tracked_queue.transport.link import Link
from tracked_queue.transport.store import Store
from tracked_queue.worker.lease import new_lease

TEXT = "abcdefghijklmnopqrst"
BULK = 50_000
DRAIN = 40_000
ORPHANS, RECOVERERS = 10_000, 8
KEYS, LANED, BACKLOG = 1_000, 5_000, 100_000

Results = dict[str, float]
T = TypeVar("T")


def per_s(count: int, seconds: float) -> float:
    return count / seconds


async def flush() -> None:
    await connections_of(app).store.read(("FLUSHALL",))
    await connections_of(app).store.read(("CONFIG", "RESETSTAT"))


async def bench_enqueue(results: Results) -> None:
    await flush()
    await noop.enqueue(0, TEXT)
    count = 3000
    began = time.perf_counter()
    for n in range(count):
        await noop.enqueue(n, TEXT)
    results["enqueue one at a time /s"] = per_s(count, time.perf_counter() - began)

    count, callers = 30_000, 100

    async def caller() -> None:
        for n in range(count // callers):
            await noop.enqueue(n, TEXT)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    results["enqueue 100 concurrent /s"] = per_s(count, time.perf_counter() - began)

    await bench_enqueue_many(results)


async def bench_enqueue_many(results: Results) -> None:
    await flush()
    before = await used_memory()
    began = time.perf_counter()
    await app.enqueue_many([noop.call(n, TEXT) for n in range(BULK)])
    results["enqueue many /s"] = per_s(BULK, time.perf_counter() - began)
    results["bytes per queued job"] = (await used_memory() - before) / BULK


async def used_memory() -> int:
    (info,) = await connections_of(app).store.read(("INFO", "memory"))
    return next(int(line[12:]) for line in info.decode().splitlines() if line.startswith("used_memory:"))


async def bench_floor(results: Results) -> None:
    """The scripts alone: no codec, no tasks, no futures."""
    await flush()
    store = Store(Link(connections_of(app).endpoint()), connections_of(app).keys)
    requests = [noop.call(n, TEXT).request for n in range(DRAIN)]
    began = time.perf_counter()
    for at in range(0, DRAIN, 250):
        await store.run(t.enqueue(requests[at : at + 250]))
    results["floor: enqueue script, 250 a call /s"] = per_s(DRAIN, time.perf_counter() - began)
    settle_store = Store(Link(connections_of(app).endpoint()), connections_of(app).keys)
    lease, number = new_lease("floor"), 0
    await store.run(t.register(lease, 60, 20, {}))
    began = time.perf_counter()
    settling: asyncio.Task[Any] | None = None
    done = 0
    while done < DRAIN:
        number += 1
        reply = await store.run(t.fetch(lease, number, 100, 0, ["default"]))
        assert isinstance(reply, t.Fetched)
        outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 3_600_000, b"", "") for job in reply.jobs]
        if settling is not None:
            await settling
        settling = asyncio.ensure_future(settle_store.run(t.settle(lease, outcomes, 120.0, 3600.0)))
        done += len(outcomes)
    assert settling is not None
    await settling
    results["floor: fetch and settle scripts, 100 a call, overlapped /s"] = per_s(DRAIN, time.perf_counter() - began)
    await store.close()
    await settle_store.close()


def worker(url: str, processes: int, *options: str, **env: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "tracked_queue", "worker", "benchmarks.bench_tasks:app", "--processes", str(processes),
        "--log-level", "error", *options,
    ]  # fmt: skip
    return subprocess.Popen(command, env={**os.environ, "REDIS_URL": url, **env}, cwd=Path(__file__).parent.parent)


async def registered(count: int) -> None:
    while (await connections_of(app).store.read(("ZCARD", connections_of(app).keys.single("instances"))))[0] < count:
        await asyncio.sleep(0.02)


async def bench_drain(results: Results, url: str, processes: int) -> None:
    """From the moment the paused queue is resumed until the last job is settled, at concurrency 100."""
    await flush()
    await connections_of(app).store.run(t.pause("queue:default"))
    await app.enqueue_many([noop.call(n, TEXT) for n in range(DRAIN)])
    running = worker(url, processes, "--queue", "default", "--concurrency", "100")
    try:
        await registered(processes)
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        await connections_of(app).store.run(t.resume("queue:default"))
        minute_keys = set()
        while True:
            now = int(time.time() * 1000) // 60_000
            minute_keys |= {now, now - 1}
            counts = await connections_of(app).store.read(
                *(
                    ("HGET", connections_of(app).keys.named("stats", str(minute)), "succeeded:default")
                    for minute in minute_keys
                )
            )
            if sum(int(count or 0) for count in counts) >= DRAIN:
                break
            await asyncio.sleep(0.005)
        results[f"drain, {processes} process{'es' if processes > 1 else ''} /s"] = per_s(
            DRAIN, time.perf_counter() - began
        )
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(20)
    if processes == 1:
        before = await used_memory()
        results["bytes per finished job"] = before / DRAIN


async def bench_latency(results: Results, url: str) -> None:
    await flush()
    running = worker(url, 1, "--queue", "default")
    try:
        await registered(1)
        await (await noop.enqueue(0, TEXT)).result(timeout=10)
        pickup, round_trip = [], []
        for _ in range(300):
            await asyncio.sleep(0.01)
            began = time.time()
            job = await stamp.enqueue()
            started = await job.result(timeout=10)
            round_trip.append((time.time() - began) * 1000)
            pickup.append((started - began) * 1000)
        for name, values in (("pickup (enqueue to start)", pickup), ("round trip (enqueue to result)", round_trip)):
            values.sort()
            results[f"{name} p50 ms"] = statistics.median(values)
            results[f"{name} p99 ms"] = values[int(len(values) * 0.99)]
        await asyncio.sleep(2)
        before, began = await commands(), time.perf_counter()
        await asyncio.sleep(10)
        after, seconds = await commands(), time.perf_counter() - began
        # Our own reading of the counter is one call.
        results["idle requests /s, 1 worker"] = (after[0] - before[0] - 1) / seconds
        results["idle commands inside scripts /s, 1 worker"] = max(0.0, (after[1] - before[1]) / seconds)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(20)


async def commands() -> tuple[int, int]:
    """Requests of clients, and commands that ran inside scripts."""
    (info,) = await connections_of(app).store.read(("INFO", "all"))
    lines = info.decode().splitlines()
    total = next(int(line.split(":")[1]) for line in lines if line.startswith("total_commands_processed:"))
    calls = {
        line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_")
    }
    outside = sum(calls.get(f"cmdstat_{name}", 0) for name in ("evalsha", "eval", "bzpopmin", "info", "client", "ping"))
    return outside, total - outside


async def recover_all(lease: str, recoverers: int) -> tuple[int, float]:
    """Jobs that instances on connections of their own bring back from a dead one, and the seconds that it takes."""
    stores = [Store(Link(connections_of(app).endpoint()), connections_of(app).keys) for _ in range(recoverers)]

    async def one(store: Store, owner: str) -> int:
        moved = 0
        while True:
            portion = await store.run(
                t.recover(lease, owner=owner, max_recoveries=3, lock_ttl=5, resend_window=120, interval=5)
            )
            moved += len(portion.jobs)
            if portion.word != "ok" or not portion.remaining:
                return moved

    began = time.perf_counter()
    moved = await asyncio.gather(*(one(store, f"w{n}") for n, store in enumerate(stores)))
    seconds = time.perf_counter() - began
    for store in stores:
        await store.close()
    return sum(moved), seconds


async def hold_dead(jobs: int) -> str:
    """The lease of a dead instance that holds so many jobs."""
    for at in range(0, jobs, 10_000):
        await app.enqueue_many([noop.call(n, TEXT) for n in range(min(10_000, jobs - at))])
    lease = new_lease("dead")
    await connections_of(app).store.run(t.register(lease, 600, 5, {}))
    for number in range(1, jobs // t.MAX_BATCH + 1):
        await connections_of(app).store.run(t.fetch(lease, number, t.MAX_BATCH, 0, ["default"]))
    await connections_of(app).store.run(t.release(lease, t.End.DIED, ago=0.0))
    return lease


async def bench_recovery(results: Results) -> None:
    """A dead instance with 10,000 jobs and eight that recover at once."""
    await flush()
    moved, results["10,000 orphans back, s"] = await recover_all(await hold_dead(ORPHANS), RECOVERERS)
    assert moved == ORPHANS


async def bench_lanes(results: Results) -> None:
    """Fetch and settle of limited jobs over 1,000 keys, alone and beside 100,000 that wait for one full key."""

    async def drain(jobs: int) -> float:
        lease, number, done = new_lease("bench"), 0, 0
        await connections_of(app).store.run(t.register(lease, 30, 5, {}))
        await app.enqueue_many([keyed.call(n % KEYS) for n in range(jobs)])
        began = time.perf_counter()
        while done < jobs:
            number += 1
            reply = await connections_of(app).store.run(t.fetch(lease, number, 100, 0, ["lanes"]))
            assert isinstance(reply, t.Fetched)
            outcomes = [
                t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 3_600_000, b"", "") for job in reply.jobs
            ]
            if outcomes:
                await connections_of(app).store.run(t.settle(lease, outcomes, 120, 3600))
            done += len(outcomes)
        rate = per_s(jobs, time.perf_counter() - began)
        await connections_of(app).store.run(t.release(lease, t.End.INTERRUPTED))
        return rate

    await flush()
    alone = await drain(LANED)
    await app.enqueue_many([keyed.call(-1) for _ in range(BACKLOG)])
    holder = new_lease("holder")
    await connections_of(app).store.run(t.register(holder, 300, 5, {}))
    for number in range(1, 4):
        await connections_of(app).store.run(t.fetch(holder, number, 250, 0, ["lanes"]))
    results["limited jobs over 1,000 keys, fetch and settle /s"] = alone
    results["the same beside 100,000 of one full key / alone"] = await drain(LANED) / alone


async def run(url: str) -> Results:
    results: Results = {}
    async with app:
        await bench_floor(results)
        await bench_enqueue(results)
        await bench_drain(results, url, 1)
        await bench_drain(results, url, 2)
        await bench_latency(results, url)
        await bench_recovery(results)
        await bench_lanes(results)
    add_ratios(results)
    return results


def add_ratios(results: Results) -> None:
    """What of the floor was reached."""
    results["enqueue many / floor"] = results["enqueue many /s"] / results["floor: enqueue script, 250 a call /s"]
    results["drain, 1 process / floor"] = (
        results["drain, 1 process /s"] / results["floor: fetch and settle scripts, 100 a call, overlapped /s"]
    )


TARGETS: dict[str, tuple[float, Callable[[float, float], bool]]] = {
    "enqueue many /s": (60_000, float.__ge__),
    "enqueue 100 concurrent /s": (40_000, float.__ge__),
    "drain, 1 process /s": (30_000, float.__ge__),
    "pickup (enqueue to start) p50 ms": (1.0, float.__lt__),
    "bytes per queued job": (275, float.__lt__),
    "10,000 orphans back, s": (1.0, float.__lt__),
    "the same beside 100,000 of one full key / alone": (0.7, float.__ge__),
}


def speed_of_machine() -> float:
    """Million additions a second in plain Python: tells a slow hour of a shared machine from slow code."""
    began, total = time.perf_counter(), 0
    for n in range(3_000_000):
        total += n
    return 3 / (time.perf_counter() - began)


def on_server(body: Callable[[str], Coroutine[Any, Any, T]], program: str | None = None) -> T:
    """Run `body` with the URL of a server of its own, to which the app is set."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    server = RedisServer(program=program)
    try:
        app.configure(redis_url=server.url)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(body(server.url))
    finally:
        server.close()


def main() -> None:
    results = on_server(run)
    print(f"{platform.python_implementation()} {platform.python_version()}, Redis {version_of(find_server())}, {os.cpu_count()} cores, "
          f"{speed_of_machine():.1f} M additions/s")  # fmt: skip
    for name, value in sorted(results.items()):
        target = TARGETS.get(name)
        note = ""
        if target is not None:
            note = f"   target {target[0]:,.0f}: {'reached' if target[1](float(value), float(target[0])) else 'MISSED'}"
        print(f"{name:<62} {value:>12,.2f}{note}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
