"""RQ: SimpleWorker, in its own process, which is its fastest."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import effect
from rq import Queue, Retry, SimpleWorker

from redis import Redis

SETTINGS = "SimpleWorker (no fork a job), one job at a time; tight: maintenance every second, Retry(max=3)"
connection = Redis.from_url(os.environ["REDIS_URL"])
queue = Queue(connection=connection, default_timeout=3600)
TASKS: dict[str, Any] = {"noop": effect.noop, "hold": effect.hold_sync, "io": effect.io_sync}
RETRY: Any = {"retry": Retry(max=3)} if os.environ.get("BENCH_TIGHT") else {}


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Any:
    return queue.enqueue(TASKS[name], *args, result_ttl=3600, **RETRY)


def enqueue_many(calls: list[tuple[Any, ...]]) -> None:
    for at in range(0, len(calls), 1000):
        queue.enqueue_many(
            [Queue.prepare_data(TASKS[name], tuple(args), result_ttl=3600) for name, *args in calls[at : at + 1000]]
        )


def result(job: Any) -> Any:
    """The documented way: latest_result waits in Redis."""
    found = job.latest_result(timeout=60)
    return found.return_value


def worker(concurrency: int, processes: int, tight: bool) -> None:
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    lease: dict[str, Any] = {"maintenance_interval": 1, "worker_ttl": 5, "job_monitoring_interval": 1} if tight else {}
    logging.disable(logging.WARNING)
    link = Redis.from_url(os.environ["REDIS_URL"])
    SimpleWorker([Queue(connection=link)], connection=link, name=f"w{os.getpid()}.{time.time_ns()}", **lease).work(
        logging_level="ERROR"
    )
