"""The floor: tracked_queue's own scripts through its own connections, with no framework around them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import effect
import uvloop
from peer_tracked_queue import TASKS, app

from tracked_queue.app import connections_of
from tracked_queue.protocol import transitions as t
from tracked_queue.transport.link import Link
from tracked_queue.transport.store import Store
from tracked_queue.worker.lease import new_lease

SETTINGS = "the scripts alone: 250 a call to enqueue, 100 a call to fetch and settle, overlapped"
BATCH, FETCH = 250, 100
store: Any = None


async def open() -> None:
    global store
    store = Store(Link(connections_of(app).endpoint()), connections_of(app).keys)


async def close() -> None:
    await store.close()


async def enqueue(name: str, *args: Any) -> Any:
    return await store.run(t.enqueue([TASKS[name].call(*args).request]))


async def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    for at in range(0, len(calls), BATCH):
        await store.run(t.enqueue([TASKS[name].call(*args).request for name, *args in calls[at : at + BATCH]]))


async def drain() -> None:
    fetching, settling = (
        Store(Link(connections_of(app).endpoint()), connections_of(app).keys),
        Store(Link(connections_of(app).endpoint()), connections_of(app).keys),
    )
    lease, number = new_lease("floor"), 0
    await fetching.run(t.register(lease, 60, 20, {}))
    flight: asyncio.Future[Any] | None = None
    while True:
        number += 1
        reply = await fetching.run(t.fetch(lease, number, FETCH, 0, ["default"]))
        assert isinstance(reply, t.Fetched)
        outcomes = []
        for job in reply.jobs:
            effect.record(number)
            outcomes.append(t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 3_600_000, b"", ""))
        if flight is not None:
            await flight
        flight = asyncio.ensure_future(settling.run(t.settle(lease, outcomes, 120.0, 3600.0))) if outcomes else None
        if not outcomes:
            await asyncio.sleep(0.01)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(drain())
