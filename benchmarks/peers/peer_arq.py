"""arq."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import effect
import uvloop
from arq import create_pool, func, run_worker
from arq.connections import RedisSettings

SETTINGS = "max_jobs 100, poll_delay 10 ms, uvloop; tight: job_timeout 5 s"
REDIS = RedisSettings.from_dsn(os.environ["REDIS_URL"])
pool: Any = None


async def noop(context: Any, number: int, text: str) -> int:
    return effect.noop(number, text)


async def hold(context: Any, number: int) -> None:
    await effect.hold_async(number)


async def io(context: Any, number: int, text: str) -> str:
    return await effect.io_async(number, text)


async def open() -> None:
    global pool
    pool = await create_pool(REDIS)


async def close() -> None:
    await pool.aclose()


async def enqueue(name: str, *args: Any) -> Any:
    return await pool.enqueue_job(name, *args)


async def result(job: Any) -> Any:
    return await job.result(timeout=60, poll_delay=0.001)


def worker(concurrency: int, processes: int, tight: bool) -> None:
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    uvloop.install()
    asyncio.set_event_loop(asyncio.new_event_loop())

    class Settings:
        functions = (func(noop), func(hold), func(io))
        redis_settings = REDIS
        max_jobs = concurrency
        poll_delay = 0.01
        job_timeout = 5 if tight else 300
        log_results = False

    run_worker(Settings)  # type: ignore[arg-type]
