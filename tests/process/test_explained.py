"""What the store remembers of real incidents, and what `explain` makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.harness import wait_until
from tests.process.worker import Notes, Worker
from tracked_queue import JobInfo, TrackedQueue
from tracked_queue.chaos.server import RedisServer


async def test_a_frozen_worker_that_wakes_up_late_is_why_it_ran_twice(
    server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Else nobody could tell that both runs were under way at the same time."""
    first = Worker(server.url, namespace, tmp_path, "--concurrency", "1", PROCESSING_INSTANCE_ID="frozen")
    second: Worker | None = None
    notes = Notes(server.url, namespace)
    async with TrackedQueue(server.url, namespace=namespace) as app:
        try:
            (lease,) = first.ready()
            job = await app.enqueue("sleep", 8)
            await asyncio.to_thread(notes.wait, "start", 1)
            (pid,) = [event["pid"] for event in first.events("process.started")]
            second = Worker(server.url, namespace, tmp_path, "--concurrency", "1", PROCESSING_INSTANCE_ID="other")
            await asyncio.to_thread(second.ready)  # somebody beats on, so that it is no outage
            # The whole machine stands still: the supervisor as well, which would see its process die.
            first.signal(signal.SIGSTOP)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.to_thread(notes.wait, "start", 2)
            os.kill(pid, signal.SIGCONT)
            first.signal(signal.SIGCONT)

            async def marked() -> JobInfo | None:
                info = await job.info()
                return info if any(event.kind == "late" for event in info.history) else None

            info = await wait_until(marked, timeout=20, what="the late end to be noted")
            assert [event.kind for event in info.history] == ["recovered", "late"]
            assert info.history[1].lease == lease and info.history[1].detail == "interrupted"
            assert await job.result(30)
            (found,) = await app.operator.explain(job.id)
            assert found.code == "ended.succeeded" and found.twice == "twice.recovered"
            assert [run.end for run in found.runs] == ["recovered", "succeeded"]
            assert found.runs[0].overlap_s > 0 and "at the same time" in found.twice_sentence
            assert sum(part.seconds for part in found.segments) <= found.total_s + 0.01
            (recovery, *_) = await app.operator.recoveries()
            assert recovery.lease == lease and recovery.label == "frozen" and recovery.cause == "lost"
        finally:
            first.close()
            if second is not None:
                second.close()


async def test_a_killed_process_is_known_to_have_died(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    worker = Worker(server.url, namespace, tmp_path, "--concurrency", "1")
    notes = Notes(server.url, namespace)
    async with TrackedQueue(server.url, namespace=namespace) as app:
        try:
            worker.ready()
            job = await app.enqueue("sleep", 1)
            await asyncio.to_thread(notes.wait, "start", 1)
            (pid,) = [event["pid"] for event in worker.events("process.started")]
            os.kill(pid, signal.SIGKILL)
            assert await job.result(30)
            history = (await job.info()).history
            assert [event.kind for event in history] == ["recovered"] and history[0].detail.startswith("died ")
            (found,) = await app.operator.explain(job.id)
            assert found.twice == "twice.recovered" and "its process died" in found.twice_sentence
        finally:
            worker.close()
