"""What docs/how-to/operate.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
import contextlib

from tests.features.common import QUICKLY, has_state, same_place
from tests.harness import running_worker, wait_until
from tests.rights import look
from tracked_queue import (
    Concurrency,
    Dead,
    Discard,
    JobCancelledError,
    JobFailedError,
    Rate,
    Snooze,
    State,
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
    assert kinds <= {"protocol", "queues", "shards", "limits", "contact", "timer", "schedules", "schedule:beat"}, kinds


async def test_tasks_and_explain_know_how_long_runs_take(app: TrackedQueue) -> None:
    """Beats carry it; what was counted since the last one goes with the end of a lease."""

    @app.task(name="short")
    async def short() -> None: ...

    @app.task(name="raises", max_attempts=1)
    async def raises() -> None:
        raise ValueError

    jobs = await app.enqueue_many([short.call() for _ in range(30)])
    failed = await raises.enqueue()
    await app.run_worker(burst=True, handle_signals=False)
    tasks = {one.task: one for one in await app.operator.tasks()}
    assert (tasks["short"].runs.total, tasks["raises"].runs.total) == (30, 1)
    times = await app.operator.times()
    assert times.waits["default"].total == 31 and (times.runs["short"].quantile(0.5) or 0.0) < 60
    assert (await app.operator.times(24 * 60)).runs["short"].total == 30, "by the hour"
    (found,) = await app.operator.explain(jobs[0].id)
    assert found.code == "ended.succeeded" and any(
        "30 runs of task short: half took" in fact.text for fact in found.facts
    )
    info = await failed.info()
    assert [event.kind for event in info.history] == ["dead"] and info.started_at is not None
    assert [one.id for one in (await app.operator.jobs("dead")).rows] == [failed.id]


async def test_the_start_of_a_buffered_job_is_noted_by_a_beat(app: TrackedQueue) -> None:
    app = TrackedQueue(**same_place(app), heartbeat_interval=0.1, heartbeat_ttl=5, concurrency=1)
    gate = asyncio.Event()

    @app.task(name="quick")
    async def quick() -> None: ...

    @app.task(name="long")
    async def long() -> None:
        await gate.wait()

    async with app, running_worker(app):
        # Quick ones first, so that jobs are taken into the instance beyond its place.
        jobs = await app.enqueue_many([*(quick.call() for _ in range(2000)), *(long.call() for _ in range(1))])

        async def runs() -> bool:
            return (await jobs[-1].info()).started_at is not None

        await wait_until(runs, timeout=30, what="the start to be known")
        info = await jobs[-1].info()
        assert info.state is State.ACTIVE and info.fetched_at and info.started_at
        assert info.started_at >= info.fetched_at
        gate.set()
        await jobs[-1].result(10)


async def test_an_act_names_who_is_acted_for(app: TrackedQueue) -> None:
    job = await app.options(delay=60).enqueue("t")
    ann = app.operator.acting_for("ann")
    await ann.cancel([job.id])
    await app.operator.pause(queue="mail")
    acts = await app.operator.acts()
    assert [(act.by, act.action) for act in acts] == [(app.operator.by, "pause"), ("ann", "cancel")]
    assert acts[1].facts == {"jobs": 1, "answers": {job.id: "cancelled"}}
    assert (await job.info()).history[0].detail == "ann"


async def test_a_task_that_a_job_defines_runs_from_then_on(app: TrackedQueue) -> None:
    """A module that is imported in a job may define tasks; until then their jobs are parked."""

    @app.task(name="imports")
    async def imports() -> None:
        @app.task(name="late")
        async def late(n: int) -> int:
            return n + 1

    waiting = await app.enqueue("late", 1)
    async with running_worker(app):
        await wait_until(lambda: has_state(waiting, State.PARKED), what="parked")
        await (await imports.enqueue()).result(10)
        assert await (await app.enqueue("late", 2)).result(10) == 3
        assert await waiting.result(10) == 2
