"""wakaq."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import effect
from wakaq import WakaQ

# Its async children start one job in 10 ms while another runs, so many children it is for the job that waits.
SETTINGS = "one child a process (50 for the job that waits); it has no lease, result or record"
CHILDREN = {"io": 50, "hold": 10}.get(os.environ.get("BENCH_JOB", ""), int(os.environ.get("BENCH_PROCESSES", "1")))
app: Any = WakaQ(
    queues=[(0, "default")],
    port=urlsplit(os.environ["REDIS_URL"]).port,
    concurrency=CHILDREN,
    worker_log_level=logging.ERROR,
)


@app.task
def noop(number: int, text: str) -> int:
    return effect.noop(number, text)


@app.task
def hold(number: int) -> None:
    effect.hold_sync(number)


@app.task
def io(number: int, text: str) -> str:
    return effect.io_sync(number, text)


def open() -> None:
    """Connects by itself."""


def enqueue(name: str, *args: Any) -> Any:
    return globals()[name].delay(*args)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    program = os.path.join(os.path.dirname(sys.executable), "wakaq-worker")
    os.execv(program, [program, "--app", "peer_wakaq.app"])
