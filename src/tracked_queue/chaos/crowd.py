"""Many small instances of a chaos run in one process, and one that starts it again when a job has killed it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading

from ..worker.log_setup import set_up

END_S = 10.0


async def run(count: int) -> None:
    """Run this many instances until SIGTERM."""
    from .recorded import app

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with asyncio.TaskGroup() as group:
        instances = [group.create_task(app.run_worker(handle_signals=False, concurrency=1)) for _ in range(count)]
        await stopped.wait()
        for instance in instances:
            instance.cancel()


def keep_up(count: str) -> None:
    """Keep a process with the instances running, replacing it when it dies, until SIGTERM; a job may block its exit."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    command = [sys.executable, "-m", "tracked_queue.chaos.crowd", "--inside", count]
    crowd = subprocess.Popen(command)
    while not stopped.wait(0.1):
        if crowd.poll() is not None:
            crowd = subprocess.Popen(command)
    crowd.terminate()
    try:
        crowd.wait(END_S)
    except subprocess.TimeoutExpired:
        crowd.kill()
        crowd.wait()


def main() -> None:
    """`python -m tracked_queue.chaos.crowd COUNT`."""
    if sys.argv[1] == "--inside":
        set_up()
        asyncio.run(run(int(sys.argv[2])))
    else:
        keep_up(sys.argv[1])


if __name__ == "__main__":
    main()
