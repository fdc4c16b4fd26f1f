"""tracked_queue with `tracked=False`: at most once, no record after the fetch."""

from __future__ import annotations

from typing import Any

import peer_tracked_queue
from peer_tracked_queue import close, open, worker

__all__ = ["close", "open", "worker"]

SETTINGS = "tracked=False, concurrency 100"


async def enqueue(name: str, *args: Any) -> Any:
    return await peer_tracked_queue.enqueue("untracked", *args)


async def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    await peer_tracked_queue.enqueue_many([("untracked", *args) for _, *args in calls])
