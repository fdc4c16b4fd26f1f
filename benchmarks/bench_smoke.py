"""
What `make bench-smoke` checks in CI: no absolute times, which a shared machine can't keep.

- exactly how many commands scripts run, and how many calls a client makes, for jobs whose life is always the same;
- how much of the floor (the bare scripts through the same connections, measured in the same run) enqueue and drain reach: at most 30
  percent below what is written in REFERENCE. A machine that stands still for a moment can spoil one measurement, not three in a row.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import bench
from benchmarks.bench import TEXT, Results, flush
from benchmarks.bench_tasks import app, noop
from tracked_queue.app import connections_of
from tracked_queue.protocol import transitions as t
from tracked_queue.worker.lease import new_lease

REFERENCE = {"enqueue many / floor": 0.60, "drain, 1 process / floor": 0.75}
"""Ratios as seen in quiet and in busy hours; benchmarks/results has the runs."""
LOSS = 0.30
TRIES, ROUNDS = 3, 4
JOBS = 100

Counts = dict[str, int]


async def counted(act: Callable[[], Awaitable[object]]) -> Counts:
    """How often each command ran while `act` did, also inside scripts."""
    before = await command_counts()
    await act()
    after = await command_counts()
    found = {name: after[name] - before.get(name, 0) for name in after}
    return {name: count for name, count in sorted(found.items()) if count and name not in ("info", "config", "client")}


async def command_counts() -> Counts:
    (info,) = await connections_of(app).store.read(("INFO", "commandstats"))
    lines = [line for line in info.decode().splitlines() if line.startswith("cmdstat_")]
    return {line.partition(":")[0][8:]: int(line.partition("calls=")[2].partition(",")[0]) for line in lines}


async def count_commands() -> dict[str, Counts]:
    """The life of 100 plain jobs in one call each of enqueue, fetch and settle."""
    await flush()
    await app.enqueue_many([noop.call(n, TEXT) for n in range(JOBS)])  # scripts are loaded, the layout is agreed
    lease = new_lease("smoke")
    await connections_of(app).store.run(t.register(lease, 60, 20, {}))
    number = 0
    delivered: list[t.Outcome] = []

    async def fetch() -> None:
        nonlocal number
        number += 1
        reply = await connections_of(app).store.run(t.fetch(lease, number, JOBS, 0, ["default"]))
        assert isinstance(reply, t.Fetched) and len(reply.jobs) == JOBS
        delivered[:] = [
            t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 3_600_000, b"", "") for job in reply.jobs
        ]

    async def settle() -> None:
        await connections_of(app).store.run(t.settle(lease, delivered, 120.0, 3600.0))

    await fetch()
    await settle()
    await connections_of(app).store.run(t.heartbeat(lease, 60, 20))
    return {
        "enqueue_many of 100": await counted(lambda: app.enqueue_many([noop.call(n, TEXT) for n in range(JOBS)])),
        "fetch of 100": await counted(fetch),
        "settle of 100": await counted(settle),
        "enqueue by 100 callers at once": await counted(
            lambda: asyncio.gather(*(noop.enqueue(n, TEXT) for n in range(JOBS)))
        ),
        "beat": await counted(lambda: connections_of(app).store.run(t.heartbeat(lease, 60, 20))),
        "fetch of nothing": await counted(fetch_nothing(lease)),
    }


def fetch_nothing(lease: str) -> Callable[[], Awaitable[object]]:
    return lambda: connections_of(app).store.run(t.fetch(lease, 1000, JOBS, 0, ["empty"]))


EXACT: dict[str, Counts] = {
    "enqueue_many of 100": {
        "evalsha": 1, "exists": 1, "hincrby": 1, "hset": 100, "lpush": 1, "sadd": 1, "time": 1, "zadd": 1,
    },
    "fetch of 100": {
        "evalsha": 1, "exists": 1, "hmget": 101, "hset": 101, "llen": 1, "lrange": 1, "ltrim": 1, "sadd": 1, "time": 1,
        "zrange": 1, "zscore": 1,
    },
    "settle of 100": {
        "del": 1, "evalsha": 1, "hget": 1, "hincrby": 1, "hmget": 100, "hset": 100, "lpush": 1, "pexpire": 101,
        "smembers": 1, "srem": 1, "time": 1,
    },
    "enqueue by 100 callers at once": {
        "evalsha": 2, "exists": 2, "hincrby": 2, "hset": 100, "lpush": 2, "sadd": 2, "time": 2, "zadd": 2,
    },
    "beat": {
        "del": 1, "evalsha": 1, "exists": 1, "get": 1, "hget": 1, "hset": 1, "set": 1, "srandmember": 3, "time": 1, "zadd": 1, "zrange": 1,
        "zrevrange": 1, "zscore": 1,
    },
    "fetch of nothing": {
        "del": 1, "evalsha": 1, "exists": 1, "hmget": 1, "hset": 1, "lrange": 1, "time": 1, "zrange": 1, "zscore": 1,
    },
}  # fmt: skip
"""Whoever changes a script's commands changes them here too, and says in the commit what for."""


async def ratios(url: str) -> Results:
    """Floor and ours in turns; the best of each, since whatever else the machine does only makes one slower."""
    floor_of = {
        "enqueue many": "floor: enqueue script, 250 a call /s",
        "drain, 1 process": "floor: fetch and settle scripts, 100 a call, overlapped /s",
    }
    best: Results = {}
    for _ in range(ROUNDS):
        results: Results = {}
        await bench.bench_floor(results)
        await bench.bench_enqueue_many(results)
        await bench.bench_drain(results, url, 1)
        for name, value in results.items():
            best[name] = max(best.get(name, 0.0), value)
    return {f"{ours} / floor": best[f"{ours} /s"] / best[floor] for ours, floor in floor_of.items()}


async def check(url: str) -> list[str]:
    wrong = []
    async with app:
        found = await count_commands()
        if found != EXACT:  # a new minute has counters of its own, which are given their time to live
            found = await count_commands()
        for what, counts in found.items():
            print(f"{what}: {counts}")
            if counts != EXACT[what]:
                wrong.append(f"{what}: {counts}, and not {EXACT[what]}")
        slow: list[str] = []
        for _ in range(TRIES):
            seen = await ratios(url)
            slow = [
                f"{name}: {seen[name]:.2f}, and {REFERENCE[name]:.2f} before; more than {LOSS:.0%} are lost"
                for name in REFERENCE
                if seen[name] < REFERENCE[name] * (1 - LOSS)
            ]
            print(", ".join(f"{name}: {value:.2f}" for name, value in seen.items()))
            if not slow:
                break
    return wrong + slow


def main() -> int:
    bench.DRAIN, bench.BULK = 10_000, 10_000
    wrong = bench.on_server(check)
    print("\n".join(wrong) if wrong else "as fast as before")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
