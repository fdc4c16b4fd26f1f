"""
What `make bench-growth` prints: whether cost grows with the backlog, with queues and with instances, or with anything else that is stored in
large numbers; how 100,000 orphans come back, and what long jobs do to short ones. Scripts are timed through one connection, worker processes as they are.

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

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import newest
from tests.harness import Scripts, request
from tests.stored import CALLS, THINGS

from benchmarks.bench import RECOVERERS, TEXT, Results, flush, hold_dead, on_server, recover_all, registered, worker
from benchmarks.bench_tasks import app, nap, noop
from tracked_queue.app import connections_of
from tracked_queue.producer.storing import portions
from tracked_queue.protocol import transitions as t
from tracked_queue.worker.lease import new_lease

SMALL, LARGE = 10_000, 1_000_000
PORTION = 20_000
ROUNDS = 3
QUEUES, INSTANCES = 1_000, 200
LITTLE, MUCH = 2_000, 20_000
ORPHANS = 100_000
SLOTS, MIXED, LONG_S, SHORT_S, LONG_EVERY = 10, 3_000, 0.25, 0.001, 20


async def fill(jobs: int) -> None:
    for at in range(0, jobs, 10_000):
        await app.enqueue_many([noop.call(n, TEXT) for n in range(min(10_000, jobs - at))])


async def fetch_and_settle(jobs: int) -> tuple[float, float]:
    """Jobs a second, and milliseconds of the median fetch, by the scripts alone."""
    lease, number, done, fetches = new_lease("growth"), 0, 0, []
    await connections_of(app).store.run(t.register(lease, 60, 20, {}))
    began = time.perf_counter()
    while done < jobs:
        number += 1
        asked = time.perf_counter()
        reply = await connections_of(app).store.run(t.fetch(lease, number, 100, 0, ["default"]))
        fetches.append((time.perf_counter() - asked) * 1000)
        assert isinstance(reply, t.Fetched)
        outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 1000, b"", "") for job in reply.jobs]
        await connections_of(app).store.run(t.settle(lease, outcomes, 120, 3600))
        done += len(outcomes)
    rate = jobs / (time.perf_counter() - began)
    await connections_of(app).store.run(t.release(lease, t.End.INTERRUPTED))
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
        await connections_of(app).store.run(call)
        seen.append((time.perf_counter() - began) * 1000)
    return statistics.median(seen)


async def bench_breadth(results: Results) -> None:
    """A fetch and a beat beside 1,000 queues and 200 instances."""
    await flush()
    mine = new_lease("mine")
    await connections_of(app).store.run(t.register(mine, 600, 20, {}))
    few = ["default"]
    many = [f"queue-{n}" for n in range(QUEUES)]
    results["fetch (nothing there), 1 queue, ms"] = await timed(lambda n: t.fetch(mine, n + 1, 100, 0, few))
    results["beat, 1 instance, ms"] = await timed(lambda n: t.heartbeat(mine, 600, 20))
    results["fetch (nothing there), 1,000 queues, ms"] = await timed(lambda n: t.fetch(mine, n + 1001, 100, 0, many))
    for n in range(INSTANCES):
        await connections_of(app).store.run(t.register(new_lease(f"other-{n}"), 600, 20, {}))
    results["beat, 200 instances, ms"] = await timed(lambda n: t.heartbeat(mine, 600, 20))
    results["fetch (nothing there), 200 instances, ms"] = await timed(lambda n: t.fetch(mine, n + 5001, 100, 0, few))


def beside(url: str, thing: Any, n: int) -> dict[str, float]:
    """Milliseconds that the server takes for one call of each script beside so many of a thing."""
    q = Scripts(url, "growth")
    try:
        q.redis.flushdb()
        q.now(1_700_000_000_000)
        thing(q, n)
        q.register("w")
        q.numbers["w"] = 0
        found = {}
        for name, call in CALLS.items():
            before = script_us(q)
            call(q)
            found[name] = (script_us(q) - before) / 1000
        return found
    finally:
        q.close()


def script_us(q: Scripts) -> int:
    stats = q.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("evalsha", "eval"))


def bench_stored(results: Results, url: str) -> None:
    """Each script beside a little and a lot of each thing that may be stored, in turns; the best of three."""
    for thing in THINGS:
        best: dict[int, dict[str, float]] = {LITTLE: {}, MUCH: {}}
        for _ in range(ROUNDS):
            for n in (LITTLE, MUCH):
                for name, ms in beside(url, thing, n).items():
                    best[n][name] = min(ms, best[n].get(name, ms))
        what = thing.__name__.replace("_", " ")
        slowest = max(best[MUCH], key=best[MUCH].__getitem__)
        results[f"beside {MUCH:,} / {LITTLE:,} {what}, all calls"] = sum(best[MUCH].values()) / sum(
            best[LITTLE].values()
        )
        results[f"beside {MUCH:,} {what}, slowest call ({slowest}), ms"] = best[MUCH][slowest]


def extras(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def rich(n: int, prefix: str) -> list[Any]:
    """Jobs with all that makes a job expensive: a key, a lane, two limits, an expiry."""
    return [
        request(
            f"{prefix}{at:028d}",
            kwargs=b"\x81\xa1a\x01",
            extras=extras(
                unique=[f"{prefix}{at}", "done", "existing", 0],
                lane=f"q\n{at % 50}",
                limits=[[f"L{at % 50}", "concurrency", 300, 0, 1], ["R", "rate", 10_000, 1_000, 1]],
                expires="+100000",
            ),
        )
        for at in range(n)
    ]


def widest(url: str) -> dict[str, float]:
    """Milliseconds that the server takes for the largest calls that a client or a worker makes."""
    q = Scripts(url, "growth")
    found: dict[str, float] = {}

    def run(name: str, call: t.Call[Any]) -> Any:
        before = script_us(q)
        answer = q.store.run(call)
        found[name] = max(found.get(name, 0.0), (script_us(q) - before) / 1000)
        return answer

    def fetched(name: str) -> list[t.FetchedJob]:
        q.numbers["w"] = q.numbers.get("w", 0) + 1
        return list(run(name, t.fetch("w", q.numbers["w"], 250, 0, ["q"])).jobs)

    try:
        q.redis.flushdb()
        q.now(1_700_000_000_000)
        q.register("w", 1e6)
        run("enqueue of 250 plain jobs", t.enqueue([request(f"plain{at:027d}") for at in range(250)]))
        jobs = fetched("fetch of 250 plain jobs")
        outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 1000, b"", "") for job in jobs]
        run("settle of 250 plain successes", t.settle("w", outcomes, 120.0, 1.0))
        for kind in ("succeeded", "failed", "retry", "snoozed", "parked", "dead"):
            (batch, *rest) = portions(rich(250, kind))
            run("enqueue of rich jobs", t.enqueue(batch))
            for portion in rest:
                q.store.run(t.enqueue(portion))
            while jobs := fetched("fetch of rich jobs"):
                for at in range(0, len(jobs), t.MAX_RICH):
                    outcomes = [
                        t.Outcome(job.id, job.delivery, t.OutcomeKind(kind), 1000, b"x" * 300, "why")
                        for job in jobs[at : at + t.MAX_RICH]
                    ]
                    run(f"settle of {t.MAX_RICH} rich jobs ({kind})", t.settle("w", outcomes, 120.0))
        ids = [raw.decode() for raw in q.redis.zrange(q.keys.single("dead"), 0, t.MAX_RICH - 1)]
        run(f"requeue of {t.MAX_RICH}", t.requeue(ids))
        run(f"unpark of {t.MAX_RICH}", t.unpark("t", ["q"]))
        fetched("fetch of rich jobs")
        q.release("w")
        run("recover of what it held", recover_all_of("w"))
        run(f"cancel of {t.MAX_RICH}", t.cancel(ids, 60))
        q.enqueue("first", queue="other")
        after = extras(after=["first"], on_failure="fail", wants=1)
        (batch, *_) = portions([request(f"after{at}", extras=after) for at in range(250)])
        run("enqueue of jobs that come after one", t.enqueue(batch))
        q.store.run(t.cancel(["first"], 60))
        run("tend, followers of an ended job", t.tend())
        return found
    finally:
        q.close()


def recover_all_of(lease: str) -> t.Call[Any]:
    return t.recover(lease, owner="me", max_recoveries=3, lock_ttl=30, resend_window=120, interval=3)


def bench_widest(results: Results, url: str) -> None:
    best: dict[str, float] = {}
    for _ in range(2 * ROUNDS):
        for name, ms in widest(url).items():
            best[name] = min(ms, best.get(name, ms))
    for name, ms in best.items():
        results[f"{name}, ms"] = ms


async def percentile() -> dict[str, float]:
    """Milliseconds of script calls since the counters were reset."""
    (info,) = await connections_of(app).store.read(("INFO", "latencystats"))
    line = next(line for line in info.decode().splitlines() if "_evalsha:" in line)
    return {part.split("=")[0]: float(part.split("=")[1]) / 1000 for part in line.partition(":")[2].split(",")}


async def bench_recovery(results: Results) -> None:
    """A dead instance with 100,000 jobs, and eight that recover them at once while one enqueues."""
    await flush()
    await connections_of(app).store.read(("CONFIG", "SET", "latency-tracking-info-percentiles", "50 99 99.9 100"))
    lease = await hold_dead(ORPHANS)
    await connections_of(app).store.read(("CONFIG", "RESETSTAT"))
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
    await connections_of(app).store.run(t.pause("queue:default"))
    jobs = await app.enqueue_many([nap.call(length) for length in lengths])
    running = worker(url, 2, "--queue", "default", "--concurrency", str(SLOTS))
    try:
        await registered(2)
        await asyncio.sleep(0.5)
        began = time.time()
        await connections_of(app).store.run(t.resume("queue:default"))
        ended = [await job.result(timeout=60) for job in jobs]
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(20)
    results["mixed lengths: whole run / a perfect scheduler's"] = (max(ended) - began) / ideal(lengths)


async def run(url: str) -> Results:
    results: Results = {}
    async with app:
        await bench_breadth(results)
        bench_stored(results, url)
        bench_widest(results, url)
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
