"""Isolated tasks that tests call in children of their own."""

from __future__ import annotations

import os
import sys
import time

from tracked_queue import TrackedQueue

app = TrackedQueue("embedded://")


@app.task(name="quick", isolate="process")
def quick(n: int) -> int:
    print(f"said by {n}", flush=True)
    print(sys.stdin.read() or "nothing to read", file=sys.stderr, flush=True)
    return os.getpid() if n < 0 else n + 1


@app.task(name="slow", isolate="process")
def slow() -> None:
    time.sleep(60)


@app.task(name="gone", isolate="process")
def gone() -> None:
    os._exit(7)


@app.task(name="lingering", isolate="process")
def lingering() -> None:
    os.closerange(3, 100)  # its socket to the parent among them
    time.sleep(0.3)
    os._exit(7)


def _plain(n: int) -> int:
    return 2 * n


renamed = app.task(name="renamed", isolate="process")(_plain)
