"""kill -9 in the middle of a limit, a unique job, a fan-in, an import with checkpoints, a cron tick; isolated jobs that crash."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness import wait_until
from tests.process import feature_jobs
from tests.process.worker import Notes, Worker
from tracked_queue import JobCancelledError, JobFailedError, State, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.reports.schedules import read_schedules

Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(90)
APP = "tests.process.feature_jobs:app"


@pytest.fixture
async def jobs(server: RedisServer, namespace: str) -> AsyncIterator[TrackedQueue]:
    """The workers' own application, pointed at this test's namespace."""
    app = feature_jobs.app
    app.configure(redis_url=server.url, namespace=namespace)
    yield app
    await app.aclose()


async def test_a_killed_holders_permits_come_back(start: Start, jobs: TrackedQueue, notes: Notes) -> None:
    worker = start("--concurrency", "10", app=APP)
    worker.ready()
    stored = [await feature_jobs.limited.enqueue(30 if n < 2 else 0.1) for n in range(6)]
    notes.wait("start", 2)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    worker.ready(2)
    notes.wait("start", 4)
    assert len(notes.all("start")) == 4, "the two orphans, first and alone: the limit holds"
    for job in stored[:2]:
        await job.cancel()
    for job in stored[2:]:
        await job.result(20)


async def test_an_orphan_of_a_unique_job_runs_again_and_no_second_slips_in(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    """CASE-48."""
    worker = start(app=APP)
    (first,) = worker.ready()
    job = await feature_jobs.unique.enqueue(1.0)
    notes.wait("start", 1)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert not (await feature_jobs.unique.enqueue(1.0)).created
    notes.wait("start", 2)
    assert not (await feature_jobs.unique.enqueue(1.0)).created
    assert await job.result(20) != first
    assert (await feature_jobs.unique.enqueue(1.0)).created


async def test_a_fan_in_ends_although_a_member_is_recovered_while_the_last_ones_finish(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    worker = start("--concurrency", "30", app=APP)
    worker.ready()
    group = await jobs.group([feature_jobs.member.call(n) for n in range(40)], then=feature_jobs.total.step())
    notes.wait("start", 20)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert group.then is not None and await group.then.result(30) == sum(range(40))


async def test_an_import_goes_on_where_its_checkpoint_is(start: Start, jobs: TrackedQueue, notes: Notes) -> None:
    worker = start(app=APP)
    worker.ready()
    job = await feature_jobs.long_import.enqueue(20)
    notes.wait("item7", 1)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert await job.result(30) <= 13, "the second run did only the rest"
    counts = Counter(what for what, *_ in notes.starting("item"))
    assert set(counts) == {f"item{n}" for n in range(20)} and sum(counts.values()) <= 22


async def test_three_workers_tick_once_a_second_and_a_killed_one_is_not_missed(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    """CASE-41."""
    workers = [start(app=APP, WITH_SCHEDULE="1") for _ in range(3)]
    for worker in workers:
        worker.ready()
    await wait_until(lambda: len(notes.starting("tick-")) >= 2, 20, "two ticks")
    workers[0].vanish()
    seen = len(notes.starting("tick-"))
    await wait_until(lambda: len(notes.starting("tick-")) >= seen + 4, 20, "four more")
    ticks = [int(what.removeprefix("tick-")) for what, *_ in notes.starting("tick-")]
    counted = Counter(ticks)
    extra = sum(counted.values()) - len(counted)
    assert extra <= 1, "once each; the one that the killed worker ran may have run again"
    assert sorted(counted) == list(range(min(ticks), max(ticks) + 1))
    (schedule,) = await read_schedules(connections_of(jobs).store)
    assert schedule.name == "tick" and schedule.seen_s < 60
    assert await jobs.pause(schedule="tick")
    ran = len(notes.starting("tick-"))
    last = (await read_schedules(connections_of(jobs).store))[0].last_tick
    await wait_until(lambda: _ticked_after(jobs, last), 10, "a tick that is passed over")
    assert len(notes.starting("tick-")) <= ran + 1
    await jobs.resume(schedule="tick")


async def test_two_thousand_jobs_due_in_one_second_while_a_worker_is_killed(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    """CASE-40: each runs; only what the killed worker had may run twice."""
    workers = [start("--concurrency", "50", app=APP) for _ in range(3)]
    for worker in workers:
        worker.ready()
    at = datetime.now(UTC) + timedelta(seconds=2)
    stored = await jobs.enqueue_many([feature_jobs.due.options(at=at).call(n) for n in range(2000)])
    await wait_until(lambda: notes.count() > 0, 20, "the first one")
    (child,) = workers[0].children()
    os.kill(child, signal.SIGKILL)
    for job in stored:
        await job.result(60)
    runs = Counter(what for what, *_ in notes.starting("due"))
    assert set(runs) == {f"due{n}" for n in range(2000)}
    twice = [int(what.removeprefix("due")) for what, count in runs.items() if count > 1]
    assert len(twice) <= 50
    for n in twice:
        info = await stored[n].info()
        assert info.recoveries + info.interruptions >= 1, "a second run without a cause"


async def test_hosts_whose_clocks_are_an_hour_apart_agree_on_what_is_due(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    """CASE-44, also for schedules: due times, leases and ticks are decided by the server's clock."""
    workers = [start(app=APP, WITH_SCHEDULE="1", CLOCK_SHIFT=str(shift)) for shift in (3600, -3600)]
    for worker in workers:
        worker.ready()
    long = await feature_jobs.unique.enqueue(5.0)
    delayed = await feature_jobs.due.options(delay=1.5).enqueue(0)
    begun = time.monotonic()
    await delayed.result(20)
    assert 1.4 < time.monotonic() - begun < 10
    await wait_until(lambda: len(notes.starting("tick-")) >= 4, 20, "four ticks")
    ticks = [int(what.removeprefix("tick-")) for what, *_ in notes.starting("tick-")]
    assert len(set(ticks)) == len(ticks)
    assert sorted(ticks) == list(range(min(ticks), max(ticks) + 1))
    assert abs(min(ticks) - time.time()) < 60
    await long.result(20)
    assert (await long.info()).recoveries == 0


async def _ticked_after(app: TrackedQueue, last: object) -> bool:
    return (await read_schedules(connections_of(app).store))[0].last_tick != last


async def test_an_isolated_job_is_ended_by_its_timeout_and_its_cancel_and_its_crash_is_its_own(
    start: Start, jobs: TrackedQueue, notes: Notes
) -> None:
    worker = start(app=APP)
    worker.ready()
    beside = await feature_jobs.limited.enqueue(3)
    crashed, late, fine = (
        await feature_jobs.segfault.enqueue(), await feature_jobs.burn.enqueue(60), await feature_jobs.burn.options(timeout=20).enqueue(0.05),
    )  # fmt: skip
    assert await fine.result(20) not in worker.children()
    with pytest.raises(JobFailedError, match="died before it returned"):
        await crashed.result(20)
    with pytest.raises(JobFailedError, match="timeout of 1 s"):
        await late.result(20)
    with pytest.raises(JobFailedError, match="in the child") as found:
        await (await feature_jobs.picky.enqueue()).result(20)
    assert found.value.state == "failed" and "feature_jobs.py" in found.value.traceback
    endless = await feature_jobs.burn.options(timeout=60).enqueue(60)
    await wait_until(lambda: _active(endless), 20, "it to run")
    await endless.cancel()
    with pytest.raises(JobCancelledError):
        await endless.result(20)
    await beside.result(20)
    assert (await beside.info()).recoveries == 0, "the worker itself went on"


async def _active(job: object) -> bool:
    return await job.status() is State.ACTIVE  # type: ignore[attr-defined]


async def test_a_thread_that_does_not_end_is_told_of_and_keeps_its_slot(start: Start, jobs: TrackedQueue) -> None:
    """CASE-32 for a plain def: recorded as timed out in time; the thread runs on in its slot."""
    worker = start(app=APP)
    worker.ready()
    job = await feature_jobs.stubborn.options(timeout=0.2, max_attempts=1).enqueue(3)
    with pytest.raises(JobFailedError, match="timeout of 0.2 s"):
        await job.result(20)
    worker.wait_event("job.ignored_cancellation")
    second = await feature_jobs.limited.enqueue(0)
    await second.result(20)
