"""
What `make bench-readers` prints: how long each look at a large fleet takes, and how many commands it costs Redis.

1,000,000 queued jobs in 1,000 queues, 200 instances that own 20 jobs each, 100,000 dead jobs, 100,000 scheduled ones. Fails if the 95th percentile of
a look is above 300 ms, or if it sends more commands than it may.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.bench import TEXT, on_server
from benchmarks.bench_tasks import app, noop
from tracked_queue.app import connections_of
from tracked_queue.metrics.exporter import FleetCollector
from tracked_queue.operator.jobs import _packed
from tracked_queue.protocol import transitions as t
from tracked_queue.reports.listing import Place

JOBS, QUEUES, INSTANCES, DEAD, SCHEDULED, OWNED = 1_000_000, 1_000, 200, 100_000, 100_000, 20
ROUNDS = 20
P95_MS = 300.0


async def fill() -> tuple[str, str]:
    """The ids of a queued and of a dead job."""
    store = connections_of(app).store
    names = [f"queue-{n}" for n in range(QUEUES)]
    # The dead first, through one queue: settled as they are fetched.
    await store.run(t.register("dying", 600, 20, {}))
    dead = ""
    for at in range(0, DEAD, 10_000):
        await app.enqueue_many([noop.call(n, TEXT) for n in range(10_000)])
        for number in range(at // 250 + 1, (at + 10_000) // 250 + 1):
            fetched = await store.run(t.fetch("dying", number, t.MAX_BATCH, 0, ["default"]))
            assert isinstance(fetched, t.Fetched)
            for first in range(0, len(fetched.jobs), t.MAX_RICH):
                part = fetched.jobs[first : first + t.MAX_RICH]
                outcomes = [
                    t.Outcome(job.id, job.delivery, t.OutcomeKind.DEAD, 1, b"", "ValueError: no") for job in part
                ]
                await store.run(t.settle("dying", outcomes, 120.0))
            dead = fetched.jobs[-1].id.decode()
    await store.run(t.release("dying", t.End.INTERRUPTED))
    for at in range(0, SCHEDULED, 10_000):
        await app.enqueue_many([noop.options(delay=3600 + n).call(n, TEXT) for n in range(at, at + 10_000)])
    queued = ""
    for at in range(0, JOBS, 10_000):
        calls = [noop.options(queue=names[n % QUEUES]).call(n, TEXT) for n in range(at, at + 10_000)]
        queued = (await app.enqueue_many(calls))[-1].id
    for n in range(INSTANCES):
        lease, own = f"instance-{n}", [names[(n * 5 + more) % QUEUES] for more in range(10)]
        about = {
            "label": lease, "host": f"host-{n}", "pid": str(n), "version": "1", "queues": "\n".join(own), "tasks": "noop", "concurrency": "50",
            "machine": "m", "born": "1", "program": "1",
        }  # fmt: skip
        await store.run(t.register(lease, 600, 20, about))
        await store.run(t.fetch(lease, 1, OWNED, 0, own))
    return queued, dead


async def run(_url: str) -> int:
    began = time.perf_counter()
    queued, dead = await fill()
    print(
        f"{JOBS:,} queued in {QUEUES:,} queues, {INSTANCES} instances, {DEAD:,} dead, {SCHEDULED:,} scheduled; filled in {time.perf_counter() - began:.0f} s"
    )
    see = app.operator
    registry, collector = CollectorRegistry(), FleetCollector(app, asyncio.get_running_loop())
    registry.register(collector)

    async def scrape() -> None:
        collector.forget()
        await asyncio.to_thread(generate_latest, registry)

    middle = _packed([Place(("queue-500", "1"), 500)])
    # Each with how many commands it may take.
    looks: list[tuple[str, Callable[[], Awaitable[Any]], int]] = [
        ("explain ID (queued)", lambda: see.explain(queued), 40),
        ("explain ID (dead)", lambda: see.explain(dead), 40),
        ("explain ID (no such job)", lambda: see.explain("none"), 60),
        ("explain", lambda: see.explain(), 10_000),
        ("explain --queue", lambda: see.explain(queue="queue-1"), 60),
        ("explain --task", lambda: see.explain(task="noop"), 3_000),
        ("explain --instance", lambda: see.explain(instance="instance-1"), 10),
        ("queues", see.queues, 10_000),
        ("picture (top)", lambda: see._pictures._read(), 12_000),
        ("instances", see.instances, 10),
        ("tasks", see.tasks, 10_000),
        ("limits", see.limits, 100),
        ("schedules", see.schedules, 20),
        ("jobs --state queued", lambda: see.jobs("queued"), 260),
        ("jobs, a page of queue-500", lambda: see.jobs("queued", start=middle), 300),
        ("jobs --task, none found", lambda: see.jobs("queued", task="no such"), 10_300),
        ("jobs --state dead --error", lambda: see.jobs("dead", error="no such"), 10_300),
        ("jobs --state retrying, none found", lambda: see.jobs("retrying"), 10_300),
        ("jobs --state active", lambda: see.jobs("active"), 300),
        ("audit", lambda: see.acts(), 5),
        ("scale", lambda: see.scale(["queue-1", "queue-2"]), 10_000),
        ("/metrics", scrape, 10_000),
    ]
    wrong = 0
    store = connections_of(app).store
    counting = store._caller = Counting(store._caller)
    print(f"{'look':<36}{'p50 ms':>9}{'p95 ms':>9}{'commands':>10}{'may':>8}")
    for name, look, most in looks:
        took = []
        await look()
        before = counting.commands
        await look()
        commands = counting.commands - before
        for _ in range(ROUNDS):
            at = time.perf_counter()
            await look()
            took.append((time.perf_counter() - at) * 1000)
        p95 = statistics.quantiles(took, n=20)[-1]
        is_wrong = p95 > P95_MS or commands > most
        wrong += is_wrong
        print(
            f"{name:<36}{statistics.median(took):>9.1f}{p95:>9.1f}{commands:>10,}{most:>8,}{'   MISSED' if is_wrong else ''}",
            flush=True,
        )
    return wrong


class Counting:
    """Counts the commands that are sent; what a script does inside counts as one."""

    def __init__(self, caller: Any) -> None:
        self._caller, self.commands = caller, 0
        self.close = caller.close

    async def call(self, commands: Any, timeout: float | None = None) -> list[Any]:
        self.commands += len(commands)
        found: list[Any] = await self._caller.call(commands, timeout)
        return found


if __name__ == "__main__":
    sys.exit(1 if on_server(run) else 0)
