"""Jobs whose sub-tasks end the process, or would; the application of test_edges.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from tracked_queue import TrackedQueue

app = TrackedQueue()


async def leaves() -> None:
    await asyncio.sleep(0.05)
    sys.exit("boom")


@app.task(name="exits", max_attempts=1)
async def exits(how: str) -> str:
    if how == "task":
        await asyncio.create_task(leaves())
    elif how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(leaves())
    elif how == "gather":
        await asyncio.gather(leaves(), asyncio.sleep(0.1))
    elif how == "callback":
        asyncio.get_running_loop().call_soon(sys.exit, "boom")
        await asyncio.sleep(0.1)
    return "went on"


@app.task(name="beside")
async def beside() -> int:
    await asyncio.sleep(1.0)
    return os.getpid()


@app.task(name="changes", isolate="process")
def changes() -> int:
    signal.alarm(1)
    os.environ["LEFT"] = "behind"
    os.chdir("/")
    os.umask(0)
    return os.getpid()


@app.task(name="looks", isolate="process")
def looks() -> tuple[int, str, bool, str]:
    import time

    time.sleep(1.5)
    return os.getpid(), os.environ.get("LEFT", ""), os.getcwd() == "/", (sys.flags.optimize and "O") or ""


@app.task(name="prints")
async def prints(text: str) -> bool:
    print(text, flush=True)
    return __debug__


@app.task(name="beside_it")
async def beside_it(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(name="deaf")
async def deaf(how: str) -> None:
    if how == "ignores":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "replaces":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    else:
        time.sleep(120)
