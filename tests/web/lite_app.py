"""An application of Litestar, for its command line."""

import asyncio
import os

from litestar import Litestar, post
from litestar.di import NamedDependency

from tracked_queue import TrackedQueue
from tracked_queue.litestar import QueuePlugin

jobs = TrackedQueue(namespace=os.environ.get("PROCESSING_NS", "tq"))


@jobs.task(name="double")
async def double(n: int) -> int:
    return n * 2


@jobs.task(name="slow")
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@post("/double")
async def start(queue: NamedDependency[TrackedQueue]) -> str:
    assert queue is jobs
    return (await double.enqueue(4)).id


app = Litestar([start], plugins=[QueuePlugin(jobs, processes=1)])
