"""
What `make bench-cluster` prints: throughput over 1, 2 and 3 primaries, and where the CPU went.

With fewer cores than servers and workers the figures can't grow: the column of the servers' own time says what each primary
would still have had to give.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import structlog
import uvloop
from tests.nodes import ClusterNodes, ask

from tracked_queue import TrackedQueue
from tracked_queue.app import connections_of, producer_of
from tracked_queue.protocol.states import State

JOBS = 30_000
SHARDS_OF_A_PRIMARY = 2
NAMESPACE = "bench"


def app_of(url: str, shards: int) -> TrackedQueue:
    made = TrackedQueue(url, namespace=NAMESPACE, shards=shards, result_ttl=3600.0)

    @made.task(name="noop")
    async def noop(n: int) -> None: ...

    return made


if os.environ.get("BENCH_SHARDS"):
    app = app_of(os.environ["REDIS_URL"], int(os.environ["BENCH_SHARDS"]))


def cpu_s(nodes: ClusterNodes) -> float:
    """Seconds of CPU that the primaries have used."""
    total = 0.0
    for server in nodes.primaries:
        facts = dict(line.split(":", 1) for line in ask(server, "INFO", "cpu").decode().splitlines() if ":" in line)
        total += float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])
    return total


async def measure(nodes: ClusterNodes, shards: int, processes: int) -> tuple[float, float, float]:
    """Bulk enqueues /s, drained jobs /s, and the servers' CPU seconds for one second of the drain."""
    queue = app_of(nodes.url, shards)
    noop = queue.tasks.get("noop")
    assert noop is not None
    async with queue:
        await queue.pause(queue="default")
        calls = [noop.call(n) for n in range(JOBS)]
        began = time.perf_counter()
        jobs = await queue.enqueue_many(calls)
        enqueue = JOBS / (time.perf_counter() - began)
        environment = {**os.environ, "REDIS_URL": nodes.url, "BENCH_SHARDS": str(shards)}
        command = [
            sys.executable,
            "-m",
            "tracked_queue",
            "worker",
            "benchmarks.bench_cluster:app",
            "--processes",
            str(processes),
        ]
        worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            while sum(
                [
                    (await store.read(("ZCARD", store.keys.single("instances"))))[0]
                    for store in connections_of(queue).stores
                ]
            ) < (shards * processes):
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)  # everybody stands
            before, began = cpu_s(nodes), time.perf_counter()
            await queue.resume(queue="default")
            last = {
                shard: ids[-1] for shard, ids in connections_of(queue).shards.by_shard(job.id for job in jobs).items()
            }
            while not all(
                state in (State.SUCCEEDED, None) for state in await producer_of(queue).job_states(list(last.values()))
            ):
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - began
            used = cpu_s(nodes) - before
        finally:
            worker.terminate()
            worker.wait()
    return enqueue, JOBS / seconds, used / seconds


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(f"{os.cpu_count()} cores; {JOBS} no-op jobs, 2 worker processes, {SHARDS_OF_A_PRIMARY} shards a primary")
    print(
        f"{'primaries':>9} {'enqueue /s':>12} {'drain /s':>10} {'CPU of the servers':>20} {'drain per server CPU s':>24}"
    )
    for primaries in (1, 2, 3):
        nodes = ClusterNodes(primaries=primaries, replicas=0)
        try:
            enqueue, drain, cpu = uvloop.run(measure(nodes, primaries * SHARDS_OF_A_PRIMARY, 2))
            print(f"{primaries:>9} {enqueue:>12,.0f} {drain:>10,.0f} {cpu:>20.2f} {drain / cpu:>24,.0f}", flush=True)
        finally:
            nodes.close()


if __name__ == "__main__":
    main()
