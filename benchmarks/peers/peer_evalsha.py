"""A bare EVALSHA: tracked_queue's enqueue script by redis-py's own client, as another queue would call it."""

from __future__ import annotations

import os
from typing import Any

import redis.asyncio
from peer_tracked_queue import TASKS, app

from tracked_queue.app import connections_of
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.scripts import load_scripts

SETTINGS = "redis-py's client, the enqueue script, one job a call"
SCRIPT = load_scripts()["enqueue"]
client: Any = None


async def open() -> None:
    global client
    client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    await client.script_load(SCRIPT.text)


async def close() -> None:
    await client.aclose()


async def enqueue(name: str, *args: Any) -> Any:
    call = t.enqueue([TASKS[name].call(*args).request])
    return await client.evalsha(SCRIPT.sha, 1, connections_of(app).keys.tag, *call.args)
