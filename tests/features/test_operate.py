"""What docs/how-to/operate.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
import contextlib

from tests.features.common import QUICKLY, same_place
from tests.harness import running_worker
from tests.rights import look
from tracked_queue import (
    Concurrency,
    Dead,
    Discard,
    JobCancelledError,
    JobFailedError,
    Rate,
    Snooze,
    TrackedQueue,
    Unique,
    current_job,
)
from tracked_queue.app import connections_of
from tracked_queue.protocol.transitions import purge


async def _nothing() -> None: ...


async def test_no_key_of_a_job_stays_whatever_became_of_it(app: TrackedQueue) -> None:
    """CASE-56, over all features: whatever has no expiry in the end belongs to no job and no instance."""
    app = TrackedQueue(**same_place(app), result_ttl=0.5, block=0.5, cancel_grace=0.5, concurrency=30)
    app.limit_queue("narrow", Concurrency(3, key="n"))
    snoozed: set[int] = set()

    @app.every(1, name="beat")
    @app.task(name="ticking")
    async def ticking() -> None: ...

    @app.task(name="plain", max_attempts=2, retry=QUICKLY)
    async def plain(what: str = "", n: int = 0) -> int:
        match what:
            case "raise":
                raise ValueError(n)
            case "discard":
                raise Discard("no")
            case "dead":
                raise Dead("no")
            case "snooze" if n not in snoozed:
                snoozed.add(n)
                raise Snooze(0.01)
            case "sleep":
                await asyncio.sleep(30)
            case "note":
                await current_job().progress(1, 2)
                await current_job().checkpoint({"n": n})
                await current_job().log("a line")
        return n

    @app.task(name="bound", unique=Unique(by="n"), limit=[Rate(1000, per=0.2, key="n"), Concurrency(2)], fair_by="n")
    async def bound(n: int) -> int:
        return n

    @app.task(name="untracked", tracked=False)
    async def untracked() -> None: ...

    @app.task(name="narrow", queue="narrow")
    async def narrow(n: int) -> None: ...

    @app.task(name="sum")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    async with app, running_worker(app):
        jobs = [await plain.enqueue(what, n) for n in range(20) for what in ("", "raise", "discard", "snooze", "note")]
        jobs += [await bound.enqueue(n % 7) for n in range(60)]
        jobs += [await app.options(queue="default").enqueue("bound", n) for n in range(20, 30)]
        jobs += [await narrow.options(delay=0.05).enqueue(n % 3) for n in range(20)]
        jobs += [await plain.options(timeout=0.05, max_attempts=1).enqueue("sleep") for _ in range(3)]
        jobs.append(await plain.options(expires=0.001, delay=0.2).enqueue())
        for _ in range(20):
            await untracked.enqueue()
        group = await app.group([plain.call("", n) for n in range(10)], then=total.step())
        chain = await app.chain(plain.call("discard"), plain.step())
        running = [await plain.enqueue("sleep") for _ in range(3)]
        queued = await plain.options(queue="elsewhere").enqueue()
        for job in (*running, queued):
            await job.cancel()
        dead = await plain.enqueue("dead")
        for job in (*jobs, group.then, chain, *running, dead):
            with contextlib.suppress(JobFailedError, JobCancelledError):
                await job.result(30)
        await connections_of(app).store.run(purge([job.id for job in (dead, *jobs)]))
    async with TrackedQueue(**same_place(app)) as last:
        # What is cancelled while it waits leaves its list with the next fetch.
        for queue in ("default", "narrow", "elsewhere"):
            last.task(name=queue, queue=queue)(_nothing)
        await last.run_worker(burst=True, handle_signals=False)
        kinds = set()
        for raw in await look(last, "KEYS", connections_of(app).keys.tag.replace("{", "[{]") + ":*"):
            ttl = await look(last, "PTTL", raw)
            if ttl == -1:
                kinds.add(raw.decode().removeprefix(connections_of(app).keys.tag + ":"))
    # A marker that nobody has waited for stays until the queue's next fetch; there is one a queue.
    kinds -= {f"wake:{queue}" for queue in ("default", "narrow", "elsewhere")}
    assert kinds <= {"queues", "shards", "limits", "contact", "timer", "schedules", "schedule:beat"}, kinds
