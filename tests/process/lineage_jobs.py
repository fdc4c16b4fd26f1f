"""Jobs that fork, start programs and leave things behind; the application of test_lineage.py."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from tracked_queue import Fixed, TrackedQueue

if wait := float(os.environ.get("SLOW_IMPORT", "0")):
    print("importing", flush=True)
    time.sleep(wait)

app = TrackedQueue()


def exec_what_is_not_there() -> None:
    """A fork whose program is not installed: the child goes on in Python, with an error."""
    if os.fork() == 0:
        os.execvp("no-such-program", ["no-such-program"])


@app.task(name="fork-isolated", isolate="process", max_attempts=1)
def fork_isolated(how: str) -> str:
    if how == "raises":
        exec_what_is_not_there()
    elif how == "returns" and os.fork() == 0:
        return "child"
    elif how == "exits" and os.fork() == 0:
        sys.exit(3)
    elif how == "twice" and (os.fork() == 0 or os.fork() == 0):
        return "child"
    return f"parent {os.getpid()}"


@app.task(name="forge", isolate="process", max_attempts=1)
def forge() -> str:
    """Write an answer of another call into the socket to the worker, as a clone would."""
    answer = msgspec.msgpack.encode((0, ("", msgspec.msgpack.encode("forged"), [], None)))
    with socket.socket(fileno=os.dup(int(sys.argv[-1]))) as link:
        link.sendall(len(answer).to_bytes(8, "big") + answer)
    return "true"


@app.task(name="echo-isolated", isolate="process", max_attempts=1)
def echo_isolated(text: str) -> str:
    return text


@app.task(name="fork-async", max_attempts=1)
async def fork_async(how: str) -> str:
    if how == "raises":
        exec_what_is_not_there()
    elif os.fork() == 0:
        if how == "waits":
            with contextlib.suppress(RuntimeError):  # no loop of its own
                await asyncio.sleep(0)
            await _Bare()
        return "child"
    await asyncio.sleep(0.2)
    return "parent"


class _Bare:
    """Gives way to the event loop without asking for one."""

    def __await__(self) -> Any:
        yield


@app.task(name="fork-thread", max_attempts=1)
def fork_thread(how: str) -> str:
    if how == "raises":
        exec_what_is_not_there()
    elif os.fork() == 0:
        return "child"
    return "parent"


@app.task(name="count", max_attempts=1)
async def count(n: int, path: str) -> int:
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{n} {os.getpid()}\n".encode())
    os.close(descriptor)
    await asyncio.sleep(0.05)
    return n


def sleep_long() -> None:
    time.sleep(60)


@app.task(name="terminate-helpers", max_attempts=1)
def terminate_helpers() -> list[int | None]:
    helpers = [multiprocessing.get_context("fork").Process(target=sleep_long, daemon=True) for _ in range(2)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.terminate()
    for helper in helpers:
        helper.join(10)
    return [helper.exitcode for helper in helpers]


@app.task(name="grandchild", isolate="process", max_attempts=1)
def grandchild(seconds: int) -> None:
    subprocess.run(["sleep", str(seconds)], check=False)


@app.task(name="enqueues-isolated", isolate="process", max_attempts=1)
def enqueues_isolated() -> str:
    return echo_isolated.enqueue_sync("stored").id


@app.task(name="hang-at-exit", max_attempts=1)
async def hang_at_exit(how: str) -> int:
    if how == "hook":
        atexit.register(time.sleep, 1000)
    elif how == "process":
        multiprocessing.get_context("spawn").Process(target=sleep_long).start()
    elif how == "thread":
        threading.Thread(target=sleep_long).start()
    return os.getpid()


@app.task(name="pid")
async def pid() -> int:
    return os.getpid()


@app.task(name="fails", max_attempts=2, retry=Fixed(0.1))
async def fails() -> None:
    raise ValueError("no")
