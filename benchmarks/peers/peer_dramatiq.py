"""dramatiq."""

from __future__ import annotations

import os
import sys
from typing import Any

import dramatiq
import effect
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

TIGHT = bool(os.environ.get("BENCH_TIGHT"))
SETTINGS = "8 threads (100 for the job that waits), results on; tight: heartbeat_timeout 2 s, maintenance_chance 10^6"
LEASE: dict[str, Any] = {"heartbeat_timeout": 2000, "maintenance_chance": 1_000_000} if TIGHT else {}
broker = RedisBroker(url=os.environ["REDIS_URL"], **LEASE)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)
OPTIONS: dict[str, Any] = {"store_results": True, "time_limit": 3_600_000}
TASKS: dict[str, Any] = {
    "noop": dramatiq.actor(actor_name="noop", **OPTIONS)(effect.noop),
    "hold": dramatiq.actor(actor_name="hold", **OPTIONS)(effect.hold_sync),
    "io": dramatiq.actor(actor_name="io", **OPTIONS)(effect.io_sync),
}


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Any:
    return TASKS[name].send(*args)


def result(message: Any) -> Any:
    return message.get_result(block=True, timeout=60_000)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    threads = concurrency if os.environ.get("BENCH_JOB") == "io" else max(8, min(concurrency, 10))
    program = os.path.join(os.path.dirname(sys.executable), "dramatiq")
    os.execv(
        program, [program, "peer_dramatiq", "--processes", str(processes), "--threads", str(threads), "--path", "."]
    )
