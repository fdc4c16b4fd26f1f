"""A bare hand-over: LPUSH on one side and BLMOVE on the other, through tracked_queue's connections."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import effect
import uvloop
from peer_tracked_queue import app

from tracked_queue.link import Link
from tracked_queue.store import Store

SETTINGS = "LPUSH and BLMOVE"
store: Any = None


async def open() -> None:
    global store
    store = Store(Link(app.endpoint()), app.keys)


async def close() -> None:
    await store.close()


async def enqueue(name: str, *args: Any) -> Any:
    return await store.read(("LPUSH", "handover", str(args[0])))


async def take() -> None:
    await open()
    while True:
        (number,) = await store.read(("BLMOVE", "handover", "taken", "RIGHT", "LEFT", "1"))
        if number is not None:
            effect.record(int(number))


def worker(concurrency: int, processes: int, tight: bool) -> None:
    assert os.environ["REDIS_URL"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take())
