"""A bare hand-over: LPUSH on one side and BLMOVE on the other, through tracked_queue's connections."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import effect
import peer_floor
import uvloop
from peer_floor import close, open

__all__ = ["close", "open"]

SETTINGS = "LPUSH and BLMOVE"


async def enqueue(name: str, *args: Any) -> Any:
    return await peer_floor.store.read(("LPUSH", "handover", str(args[0])))


async def take() -> None:
    await open()
    while True:
        (number,) = await peer_floor.store.read(("BLMOVE", "handover", "taken", "RIGHT", "LEFT", "1"))
        if number is not None:
            effect.record(int(number))


def worker(concurrency: int, processes: int, tight: bool) -> None:
    assert os.environ["REDIS_URL"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take())
