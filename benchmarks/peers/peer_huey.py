"""huey."""

from __future__ import annotations

import os
import sys
from typing import Any

import effect
from huey import RedisHuey

SETTINGS = "4 threads (100 for the job that waits), blocking; it has no lease"
huey: Any = RedisHuey("bench", url=os.environ["REDIS_URL"], blocking=True)
TASKS: dict[str, Any] = {
    "noop": huey.task(name="noop")(effect.noop),
    "hold": huey.task(name="hold")(effect.hold_sync),
    "io": huey.task(name="io")(effect.io_sync),
}


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Any:
    return TASKS[name](*args)


def result(handle: Any) -> Any:
    return handle.get(blocking=True, timeout=60, backoff=1, max_delay=0.001)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    threads = {"io": concurrency, "hold": 10}.get(os.environ.get("BENCH_JOB", ""), 4)
    program = os.path.join(os.path.dirname(sys.executable), "huey_consumer")
    os.execv(program, [program, "peer_huey.huey", "-k", "thread", "-w", str(threads), "-q", "--no-periodic"])
