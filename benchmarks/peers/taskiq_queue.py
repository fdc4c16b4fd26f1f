"""What both brokers of taskiq share."""

from __future__ import annotations

import os
import sys
from typing import Any

import effect
from taskiq_redis import RedisAsyncResultBackend

URL = os.environ["REDIS_URL"]
RESULT_TTL_S = 3600
TASKS: dict[str, Any] = {}
broker: Any = None


def use(chosen: Any) -> Any:
    """The broker, with results and tasks."""
    global broker
    broker = chosen.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=RESULT_TTL_S))
    for name, task in (("noop", effect.noop_async), ("hold", effect.hold_async), ("io", effect.io_async)):
        TASKS[name] = broker.task(task_name=name)(task)
    return broker


async def open() -> None:
    await broker.startup()


async def close() -> None:
    await broker.shutdown()


async def enqueue(name: str, *args: Any) -> Any:
    return await TASKS[name].kiq(*args)


async def result(task: Any) -> Any:
    return await task.wait_result(check_interval=0.001, timeout=60)


def run(path: str, concurrency: int, processes: int) -> None:
    """Become the worker of the broker at `path`."""
    taskiq = os.path.join(os.path.dirname(sys.executable), "taskiq")
    os.execv(
        taskiq,
        [
            taskiq, "worker", path, "--workers", str(processes), "--log-level", "ERROR",
            "--max-async-tasks", str(concurrency), "--max-prefetch", str(concurrency),
        ],
    )  # fmt: skip
