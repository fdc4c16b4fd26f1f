"""Celery."""

from __future__ import annotations

import os
import sys
from typing import Any

import effect
from celery import Celery

TIGHT = bool(os.environ.get("BENCH_TIGHT"))
SETTINGS = (
    "prefork, prefetch multiplier 100 (100 threads for the job that waits), no gossip, mingle, heartbeat; "
    "tight: acks_late, visibility_timeout 2 s, polling_interval 0.1 s"
)
URL = os.environ["REDIS_URL"]
app: Any = Celery("peer_celery", broker=URL, backend=URL)
app.conf.update(worker_prefetch_multiplier=100, result_expires=3600, broker_connection_retry_on_startup=True)
if TIGHT:
    app.conf.update(
        task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1,
        broker_transport_options={"visibility_timeout": 2, "polling_interval": 0.1},
    )  # fmt: skip
TASKS: dict[str, Any] = {
    "noop": app.task(name="noop")(effect.noop),
    "hold": app.task(name="hold")(effect.hold_sync),
    "io": app.task(name="io")(effect.io_sync),
}


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Any:
    return TASKS[name].delay(*args)


def result(handle: Any) -> Any:
    return handle.get(timeout=60)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    job = os.environ.get("BENCH_JOB")
    pool = (
        ["-P", "threads", "-c", str(concurrency)] if job in ("io", "hold") else ["-P", "prefork", "-c", str(processes)]
    )
    os.execv(
        sys.executable,
        [
            sys.executable, "-m", "celery", "-A", "peer_celery", "worker", "-l", "ERROR",
            "--without-gossip", "--without-mingle", "--without-heartbeat", *pool,
        ],
    )  # fmt: skip
