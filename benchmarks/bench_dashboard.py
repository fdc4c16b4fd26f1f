"""
What `make bench-dashboard` prints: how long each page of the dashboard takes while 50 tabs look at a large fleet, and what they cost a
worker that drains.

The fleet is that of bench_readers: 1,000,000 queued jobs in 1,000 queues, 200 instances, 100,000 dead, 100,000 scheduled. Each tab asks for a page, waits as
its script does, and asks again. Fails if the 95th percentile of a page is above 300 ms, or if drains with the tabs open reach less than 0.95 of those
without, by the medians.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx

from benchmarks.bench import TEXT, on_server, worker
from benchmarks.bench_readers import DEAD, INSTANCES, JOBS, QUEUES, SCHEDULED, fill
from benchmarks.bench_tasks import app, noop
from tracked_queue.app import connections_of
from tracked_queue.protocol import transitions as t

TABS, EVERY_S, LOOKED_S = 50, 5.0, 60.0
DRAIN, PAIRS, APART_S = 60_000, 15, 3.0
P95_MS, LEAST_RATIO = 300.0, 0.95


# These do not look again by themselves.
NOT_POLLED = {"search": "/search?q=queue-77", "bulk plan": "/bulk/plan?action=purge&state=dead"}


def pages(queued: str, dead: str, group: str) -> dict[str, str]:
    return {
        "home": "/", "queues": "/queues", "one queue": "/queue?name=queue-1", "jobs, queued": "/jobs?queue=queue-500",
        "jobs, dead": "/jobs?state=dead", "jobs, active": "/jobs?state=active", "jobs, retrying, none found": "/jobs?state=retrying",
        "job, queued": f"/job?id={quote(queued)}", "job, dead": f"/job?id={quote(dead)}", "dead, in groups": "/dead",
        "dead, one group": f"/dead?group={group}", "tasks": "/tasks", "one task": "/task?name=noop", "instances": "/instances",
        "one instance": "/instance?lease=instance-1", "lost": "/lost", "limits": "/limits", "schedules": "/schedules",
        "workflows": "/workflows", "audit": "/audit", "doctor": "/doctor",  "as JSON": "/api/queues",
    }  # fmt: skip


async def tab(client: httpx.AsyncClient, all_pages: dict[str, str], took: dict[str, list[float]]) -> None:
    """A tab that stays some time on a page, then goes to another."""
    await asyncio.sleep(random.uniform(0, EVERY_S))
    while True:
        name = random.choice(list(all_pages))
        for _ in range(random.randrange(1, 4)):
            began = time.perf_counter()
            answer = await client.get(all_pages[name])
            took[name].append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, (name, answer.status_code, answer.text[-500:])
            await asyncio.sleep(EVERY_S * random.uniform(0.9, 1.1))


async def all_tabs(address: str, all_pages: dict[str, str]) -> dict[str, list[float]]:
    """All tabs, until the standard input ends; how long each page took, in ms."""
    took: dict[str, list[float]] = {name: [] for name in all_pages}
    limits = httpx.Limits(max_connections=TABS, max_keepalive_connections=TABS)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        tabs = [asyncio.create_task(tab(client, all_pages, took)) for _ in range(TABS)]
        await asyncio.to_thread(sys.stdin.read)
        for one in tabs:
            one.cancel()
        for ended in await asyncio.gather(*tabs, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise ended
    return took


class Tabs:
    """The tabs in a process of their own that yields to all others: browsers are on other machines."""

    def __init__(self, address: str, all_pages: dict[str, str]) -> None:
        command = [sys.executable, __file__, "--tabs", address, json.dumps(all_pages)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(19)
        )

    async def close(self) -> dict[str, list[float]]:
        told, _ = await asyncio.to_thread(self._process.communicate)
        assert self._process.returncode == 0
        found: dict[str, list[float]] = json.loads(told)
        return found


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def redis_s() -> float:
    (info,) = await connections_of(app).store.read(("INFO", "cpu"))
    values = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return float(values["used_cpu_sys"]) + float(values["used_cpu_user"])


async def drain_s() -> float:
    """Seconds from the resume of the paused queue until its last job is settled, by a worker that runs."""
    store = connections_of(app).store
    await store.run(t.pause("queue:default"))
    for at in range(0, DRAIN, 10_000):
        await app.enqueue_many([noop.call(n, TEXT) for n in range(at, at + 10_000)])
    await asyncio.sleep(APART_S)  # this process has used the CPU; tabs that it held up ask in their own time again
    begun = int(time.time()) // 60
    before = await settled(begun)
    began = time.perf_counter()
    await store.run(t.resume("queue:default"))
    while await settled(begun) - before < DRAIN:
        await asyncio.sleep(0.05)
    return time.perf_counter() - began


async def settled(since: int) -> int:
    store, keys = connections_of(app).store, connections_of(app).keys
    minutes = range(since, int(time.time()) // 60 + 2)
    counts = await store.read(*(("HGET", keys.named("stats", str(one)), "succeeded:default") for one in minutes))
    return sum(int(count or 0) for count in counts)


async def run(url: str) -> int:
    began = time.perf_counter()
    queued, dead = await fill()
    print(
        f"{JOBS:,} queued in {QUEUES:,} queues, {INSTANCES} instances, {DEAD:,} dead, {SCHEDULED:,} scheduled; filled in {time.perf_counter() - began:.0f} s"
    )
    command = [sys.executable, "-m", "tracked_queue", "dashboard", "--redis-url", url, "--port", "0"]
    served = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    working = worker(url, 1, "--queue", "default", "--concurrency", "100")
    tabs: Tabs | None = None
    try:
        assert served.stderr is not None
        address = (
            (await asyncio.to_thread(served.stderr.readline))
            .split(" at ")[1]
            .strip()
            .rstrip("/")
            .replace("127.0.0.1", "localhost")
        )
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            group = (await client.get("/api/dead")).json()["groups"][0]["key"]
            all_pages = pages(queued, dead, group)
            for name, path in all_pages.items():  # what is read once: templates, the last hour
                assert (await client.get(path)).status_code == 200, name
            tabs = Tabs(address, all_pages)
            await asyncio.sleep(2)
            cpu_before, redis_before = cpu_s(served.pid), await redis_s()
            await asyncio.sleep(LOOKED_S)
            cpu, redis = (cpu_s(served.pid) - cpu_before) / LOOKED_S, (await redis_s() - redis_before) / LOOKED_S
            once: dict[str, list[float]] = {name: [] for name in NOT_POLLED}
            for name in [name for name in NOT_POLLED for _ in range(20)]:
                at = time.perf_counter()
                assert (await client.get(NOT_POLLED[name])).status_code == 200
                once[name].append((time.perf_counter() - at) * 1000)
            took = {**await tabs.close(), **once}
            tabs = None
            wrong = 0
            print(f"CPU while {TABS} tabs look: {cpu:.1%} of a core for the dashboard, {redis:.1%} for Redis")
            print(f"{'page, with ' + str(TABS) + ' tabs open':<36}{'asked':>7}{'p50 ms':>9}{'p95 ms':>9}")
            for name, times in took.items():
                p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else 0.0
                wrong += p95 > P95_MS
                print(
                    f"{name:<36}{len(times):>7}{statistics.median(times or [0.0]):>9.1f}{p95:>9.1f}{'   MISSED' if p95 > P95_MS else ''}"
                )
            seconds: dict[bool, list[float]] = {False: [], True: []}
            await drain_s()
            for number in range(PAIRS):
                for with_tabs in (False, True) if number % 2 else (True, False):
                    tabs = Tabs(address, all_pages) if with_tabs else None
                    await asyncio.sleep(APART_S)
                    seconds[with_tabs].append(await drain_s())
                    if tabs is not None:
                        await tabs.close()
                        tabs = None
            alone, beside = statistics.median(seconds[False]), statistics.median(seconds[True])
            ratio = alone / beside
            print(f"drain of {DRAIN:,}, median of {PAIRS}: {alone:.2f} s without, {beside:.2f} s with all tabs open")
            print(f"pace with all tabs open, of that without: {ratio:.3f}{'   MISSED' if ratio < LEAST_RATIO else ''}")
            wrong += ratio < LEAST_RATIO
            return wrong
    finally:
        if tabs is not None:
            await tabs.close()
        for process in (served, working):
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tabs"]:
        print(json.dumps(asyncio.run(all_tabs(sys.argv[2], json.loads(sys.argv[3])))))
    else:
        sys.exit(1 if on_server(run) else 0)
