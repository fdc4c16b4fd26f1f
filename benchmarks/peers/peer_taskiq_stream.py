"""taskiq with a Redis stream."""

from __future__ import annotations

import os
from typing import Any

from taskiq_queue import URL, close, enqueue, open, result, run, use
from taskiq_redis import RedisStreamBroker

__all__ = ["broker", "close", "enqueue", "open", "result", "worker"]

SETTINGS = "max-async-tasks 100, max-prefetch 100; tight: idle_timeout 2 s, xread_block 500 ms"
TIGHT: dict[str, Any] = {"idle_timeout": 2000, "xread_block": 500, "unacknowledged_lock_timeout": 2}
# From the stream's start, so that jobs enqueued before the first worker are not skipped.
broker = use(RedisStreamBroker(URL, consumer_id="0", **(TIGHT if os.environ.get("BENCH_TIGHT") else {})))


def worker(concurrency: int, processes: int, tight: bool) -> None:
    run("peer_taskiq_stream:broker", concurrency, processes)
