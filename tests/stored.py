"""
What may be stored in large numbers, and one call of each script beside it: for the tests of what a call does, and `make bench-growth` for how
long it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.harness import INTERVAL, TTL, Scripts, request
from tracked_queue.protocol import transitions as t

Setup = Callable[[Scripts, int], None]


def many(q: Scripts, n: int, prefix: str, **fields: object) -> list[str]:
    """So many jobs, stored in portions."""
    ids = [f"{prefix}{at}" for at in range(n)]
    for at in range(0, n, 200):
        q.store.run(t.enqueue([request(job, **fields) for job in ids[at : at + 200]]))  # type: ignore[arg-type]
    return ids


def extras(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def queued(q: Scripts, n: int) -> None:
    many(q, n, "queued")


def laned(q: Scripts, n: int) -> None:
    for at in range(0, n, 200):
        q.store.run(t.enqueue([request(f"laned{at + m}", extras=extras(lane=f"q\n{at + m}")) for m in range(200)]))


def in_one_lane(q: Scripts, n: int) -> None:
    many(q, n, "deep", extras=extras(lane="q\ndeep"))


def limited(q: Scripts, n: int) -> None:
    """Lanes that wait for one place, which is taken."""
    limits = [["L", "concurrency", 1, 0, 1]]
    q.enqueue("first", extras=extras(lane="q\nfirst", limits=limits))
    q.register("holder")
    q.take("holder", start=1)
    for at in range(0, n, 200):
        batch = [request(f"limited{at + m}", extras=extras(lane=f"q\nL{at + m}", limits=limits)) for m in range(200)]
        q.store.run(t.enqueue(batch))
        for _ in range(3):
            q.take("holder", start=100)


def cancelled(q: Scripts, n: int) -> None:
    ids = many(q, n, "cancelled")
    for at in range(0, n, 200):
        q.store.run(t.cancel(ids[at : at + 200], 60))


def due(q: Scripts, n: int) -> None:
    many(q, n, "due", delay_ms=1)
    q.pass_time(0.01)


def scheduled(q: Scripts, n: int) -> None:
    many(q, n, "scheduled", delay_ms=3_600_000)


def active(q: Scripts, n: int) -> None:
    many(q, n, "active", queue="busy")
    q.register("busy")
    for _ in range(0, n, 200):
        q.take("busy", queues=("busy",), start=200)


def dead(q: Scripts, n: int) -> None:
    active(q, n)
    for at in range(0, n, 200):
        settle_some(q, [f"active{m}" for m in range(at, at + 200)], "dead")


def settle_some(q: Scripts, ids: list[str], outcome: str) -> None:
    outcomes = [
        t.Outcome(job.encode(), q.job(job).get("delivery", "0").encode(), t.OutcomeKind(outcome), 1, b"", "why")
        for job in ids
    ]
    q.store.run(t.settle("busy", outcomes, 120.0))


def parked(q: Scripts, n: int) -> None:
    active(q, n)
    for at in range(0, n, 200):
        settle_some(q, [f"active{m}" for m in range(at, at + 200)], "parked")


def instances(q: Scripts, n: int) -> None:
    for at in range(n):
        q.register(f"other{at}")


def followers(q: Scripts, n: int) -> None:
    """One job that many come after has ended."""
    q.enqueue("before", queue="none")
    many(q, n, "follower", extras=extras(after=["before"], on_failure="fail", wants=1))
    q.store.run(t.cancel(["before"], 60))


def ended(q: Scripts, n: int) -> None:
    """One job comes after many, which have ended, and wants their results."""
    ids = many(q, n, "member", queue="none")
    q.store.run(
        t.enqueue(
            [request("fan-in", extras=extras(after=ids[:200], on_failure="ignore", wants=200, more_after=n - 200))]
        )
    )
    for at in range(200, n, 200):
        q.store.run(t.follow("fan-in", at, 200, ids[at : at + 200], last=at + 200 >= n))
    for at in range(0, n, 200):
        q.store.run(t.cancel(ids[at : at + 200], 60))


def results(q: Scripts, n: int) -> None:
    ended(q, n)
    while q.store.run(t.tend()):
        pass


def suspects(q: Scripts, n: int) -> None:
    active(q, n)
    for _ in range(2):
        q.release("busy")
        while q.recover("busy").word == "ok":
            pass
        q.numbers["busy"] = 0
        q.register("busy")
        for _ in range(0, n, 200):
            q.take("busy", queues=("busy",), start=200)
    q.release("busy")
    while q.recover("busy").word == "ok":
        pass


THINGS: tuple[Setup, ...] = (
    queued, laned, in_one_lane, limited, cancelled, due, scheduled, active, dead, parked, instances, followers, ended, results,
    suspects,
)  # fmt: skip


def a_job(q: Scripts, job: str, **fields: object) -> t.FetchedJob:
    """One that a new instance has taken from a queue of its own."""
    q.store.run(t.enqueue([request(job, queue="own", **fields)]))  # type: ignore[arg-type]
    q.register("own")
    (found,) = q.take("own", queues=("own",), start=1)
    return found


CALLS: dict[str, Callable[[Scripts], object]] = {
    "a job of its own": lambda q: a_job(q, "own"),
    "enqueue": lambda q: q.enqueue("new"),
    "enqueue_after": lambda q: q.enqueue("after", extras=extras(after=["own"], on_failure="fail", wants=1)),
    "fetch": lambda q: q.fetch("w", start=5, queues=("q", "busy")),
    "fetch_buffer": lambda q: q.fetch("w", start=1, buffer=5, queues=("q", "busy")),
    "tend": lambda q: q.store.run(t.tend()),
    "heartbeat": lambda q: q.beat("w"),
    "await": lambda q: q.store.run(t.await_end("own")),
    "inputs": lambda q: q.store.run(t.inputs(b"fan-in", 0)),
    "note": lambda q: q.store.run(t.note("own", b"own", q.job("own")["delivery"].encode(), "progress", b"\x01")),
    "cancel": lambda q: q.store.run(t.cancel(["new"], 60)),
    "settle": lambda q: q.store.run(
        t.settle(
            "own", [t.Outcome(b"own", q.job("own")["delivery"].encode(), t.OutcomeKind.DEAD, 1, b"", "why")], 120.0
        )
    ),
    "settle_beside": lambda q: settle_some(q, ["active7"], "succeeded"),
    "requeue": lambda q: q.store.run(t.requeue(["own"])),
    "pause": lambda q: q.store.run(t.pause("task:other")),
    "resume": lambda q: q.store.run(t.resume("task:other")),
    "unpark": lambda q: q.store.run(t.unpark("t", [])),
    "drop": lambda q: q.store.run(t.drop("queue", "q")),
    "sweep": lambda q: q.store.run(t.sweep(TTL)),
    "owned": lambda q: q.store.run(t.owned("busy")),
    "trim": lambda q: q.store.run(t.trim(1e6, 10)),
    "quiet": lambda q: q.store.run(t.quiet("w", False)),
    "schedule": lambda q: q.store.run(t.schedule([("s", "t", "q", "rule")])),
    "release": lambda q: q.release("busy"),
    "recover": lambda q: q.recover("busy", n=50),
    "register": lambda q: q.store.run(t.register("late", TTL, INTERVAL, {"label": "late"}, {"L": 5})),
}
