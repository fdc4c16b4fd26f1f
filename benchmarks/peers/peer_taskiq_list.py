"""taskiq with a Redis list."""

from __future__ import annotations

from taskiq_queue import URL, close, enqueue, open, result, run, use
from taskiq_redis import ListQueueBroker

__all__ = ["broker", "close", "enqueue", "open", "result", "worker"]

SETTINGS = "max-async-tasks 100, max-prefetch 100; it has no lease"
broker = use(ListQueueBroker(URL))


def worker(concurrency: int, processes: int, tight: bool) -> None:
    run("peer_taskiq_list:broker", concurrency, processes)
