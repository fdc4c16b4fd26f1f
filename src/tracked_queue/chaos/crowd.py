"""Many small instances of a chaos run in one process."""

from __future__ import annotations

import asyncio
import signal
import sys

from ..log_setup import set_up
from .served import app


async def run(count: int) -> None:
    """Until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with asyncio.TaskGroup() as group:
        instances = [group.create_task(app.run_worker(handle_signals=False, concurrency=1)) for _ in range(count)]
        await stopped.wait()
        for instance in instances:
            instance.cancel()


def main() -> None:
    """`python -m tracked_queue.chaos.crowd COUNT`."""
    set_up()
    asyncio.run(run(int(sys.argv[1])))


if __name__ == "__main__":
    main()
