"""taskiq with a Redis list."""

from __future__ import annotations

import os
import sys
from typing import Any

import effect
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

TIGHT = bool(os.environ.get("BENCH_TIGHT"))
URL = os.environ["REDIS_URL"]
SETTINGS = "max-async-tasks 100, max-prefetch 100; it has no lease"
broker: Any = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))
TASKS: dict[str, Any] = {
    "noop": broker.task(task_name="noop")(effect.noop_async),
    "hold": broker.task(task_name="hold")(effect.hold_async),
    "io": broker.task(task_name="io")(effect.io_async),
}


async def open() -> None:
    await broker.startup()


async def close() -> None:
    await broker.shutdown()


async def enqueue(name: str, *args: Any) -> Any:
    return await TASKS[name].kiq(*args)


async def result(task: Any) -> Any:
    return await task.wait_result(check_interval=0.001, timeout=60)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    taskiq = os.path.join(os.path.dirname(sys.executable), "taskiq")
    os.execv(
        taskiq,
        [
            taskiq, "worker", "peer_taskiq_list:broker", "--workers", str(processes), "--log-level", "ERROR",
            "--max-async-tasks", str(concurrency), "--max-prefetch", str(concurrency),
        ],
    )  # fmt: skip
