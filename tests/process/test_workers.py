"""Real worker processes, killed, frozen, stopped and starved."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import wait_until
from tests.process.worker import Notes, Worker
from tracked_queue import Job, JobCancelledError, JobFailedError, State, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.reports.instances import read_instances
from tracked_queue.reports.queues import read_overview

Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(90)


async def ended(jobs: list[Job[object]], timeout: float = 20) -> list[State]:
    """The states of all jobs once they have ended."""

    async def look() -> list[State]:
        states = [info.state for info in await asyncio.gather(*(job.info() for job in jobs))]
        return states if all(state.ended for state in states) else []

    return await wait_until(look, timeout, "all jobs to end")


# Killed


async def test_a_killed_child_is_recovered_at_once_by_its_supervisor(
    start: Start, queue: TrackedQueue, notes: Notes
) -> None:
    """CASE-01, CASE-83: 200 running jobs, kill -9 of one of two processes; nobody waits for the TTL."""
    worker = start("--processes", "2", "--concurrency", "150", HEARTBEAT_TTL="60")
    worker.ready(2)
    jobs = [await queue.enqueue("sleep", 1.0) for _ in range(200)]
    notes.wait("start", 200)
    leases = {lease for _, _, lease, _ in notes.all("start")}
    assert len(leases) == 2, "both work"
    (victim,) = [item for item in await read_instances(connections_of(queue).store) if item.lease == sorted(leases)[0]]
    killed_at = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    worker.wait_event("lease.recovered")
    assert time.monotonic() - killed_at < 30, "well below the TTL"
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    ends = Counter(job_id for _, job_id, _, _ in notes.all("end"))
    assert len(ends) == 200
    infos = [await job.info() for job in jobs]
    assert all(info.attempts == 1 and info.charges == 0 for info in infos)
    assert sum(info.recoveries for info in infos) > 0
    worker.ready(3)


async def test_a_vanished_machine_is_recovered_by_any_other(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-01, CASE-02, CASE-03: the group is killed whole; another worker, with another label, finds the orphans."""
    other = start("--concurrency", "1", PROCESSING_INSTANCE_ID="b")
    other.ready()
    await queue.enqueue("sleep", 30.0)
    notes.wait("start", 1)
    dying = start("--concurrency", "3", PROCESSING_INSTANCE_ID="a")
    (lease,) = dying.ready()
    jobs = [await queue.enqueue("sleep", 0.5) for _ in range(3)]
    notes.wait("start", 4)
    dying.vanish()
    event = other.wait_event("lease.recovered")[0]
    assert event["lease"] == lease and event["jobs"] == 3 and event["label"] == "a"
    assert {e["fate"] for e in other.events("job.recovered")} == {"requeued"}
    third = start("--concurrency", "3")
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    assert [info.recoveries for info in [await job.info() for job in jobs]] == [1, 1, 1]
    third.ready()


async def test_one_poison_among_two_hundred(start: Start, queue: TrackedQueue) -> None:
    """CASE-35, CASE-36: the 200 succeed, none of them is charged; only the poison is dead, and says why."""
    worker = start("--processes", "2", "--concurrency", "50")
    worker.ready(2)
    jobs = [await queue.enqueue("short", 0.3) for _ in range(100)]
    bad = await queue.enqueue("poison")
    jobs += [await queue.enqueue("short", 0.3) for _ in range(100)]
    assert set(await ended(jobs, 40)) == {State.SUCCEEDED}
    assert await ended([bad], 40) == [State.DEAD]
    assert {info.charges for info in [await job.info() for job in jobs]} == {0}
    info = await bad.info()
    assert info.charges == 3 and info.attempts == 0 and "died 3 times" in str(info.reason)
    with pytest.raises(JobFailedError, match="died 3 times"):
        await bad.result(timeout=1)
    assert len(worker.events("process.died")) <= 7
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


async def test_two_processes_with_one_label(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-07: one label, two leases; only the dead one's jobs are recovered."""
    first = start("--concurrency", "1", PROCESSING_INSTANCE_ID="pod")
    second = start("--concurrency", "1", PROCESSING_INSTANCE_ID="pod")
    leases = {*first.ready(), *second.ready()}
    assert len(leases) == 2 and all(lease.startswith("pod.") for lease in leases)
    jobs = [await queue.enqueue("sleep", 3.0) for _ in range(2)]
    notes.wait("start", 2)
    first.vanish()
    again = start("--concurrency", "1", PROCESSING_INSTANCE_ID="pod")
    again.ready()
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    # On a machine that stood still for a while the death may look like a part of an outage, and count as an interruption.
    moved = [info.recoveries + info.interruptions for info in [await job.info() for job in jobs]]
    assert sorted(moved) == [0, 1]


# Frozen


async def test_a_frozen_worker_wakes_up_fenced(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-08, CASE-09, CASE-10: the late outcome is refused and logged; the instance registers anew and works on."""
    times = {"HEARTBEAT_TTL": "4", "HEARTBEAT_INTERVAL": "0.5"}  # a busy machine must not freeze the other one as well
    frozen = start("--concurrency", "1", **times)
    (lease,) = frozen.ready()
    job = await queue.enqueue("sleep", 12.0)  # a busy machine must not take so long to start the other one
    notes.wait("start", 1)
    other = start("--concurrency", "1", **times)
    (other_lease,) = other.ready()
    (child,) = frozen.children()
    os.kill(child, signal.SIGSTOP)
    other.wait_event("lease.recovered")
    assert await job.result(timeout=30) == other_lease
    os.kill(child, signal.SIGCONT)
    fenced = frozen.wait_event("job.fenced")
    assert fenced[0]["job_id"] == job.id and fenced[0]["lease"] == lease
    assert await job.result(timeout=1) == other_lease, "the late outcome changed nothing"
    frozen.ready(2)
    assert len(frozen.events("lease.lost")) == 1
    other.vanish()
    after = await queue.enqueue("sleep", 0.0)
    assert await after.result(timeout=20) == frozen.ready(2)[1]
    info = await job.info()
    assert (info.attempts, info.recoveries) == (1, 1)


async def test_a_blocked_loop_is_warned_of_and_not_recovered(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-11: the watchdog beats for a CPU-bound job, and names the frame that blocks."""
    first, second = start("--concurrency", "1"), start("--concurrency", "1")
    first.ready()
    second.ready()
    job = await queue.enqueue("block", 5.0)
    assert await ended([job]) == [State.SUCCEEDED]
    assert len(notes.all("start")) == 1
    warned = [*first.events("loop.blocked"), *second.events("loop.blocked")]
    assert len(warned) == 1, "once for one block"
    assert "blocking_function" in warned[0]["place"] and warned[0]["job_id"] == job.id and warned[0]["task"] == "block"
    assert not first.events("job.recovered") and not second.events("job.recovered")
    assert (await job.info()).recoveries == 0


async def test_a_loop_that_stays_blocked_is_given_up(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """Past stall_limit the process ends, and its supervisor starts another."""
    worker = start("--stall-limit", "2", "--max-recoveries", "1", "--concurrency", "1")
    worker.ready()
    await queue.enqueue("block", 600.0)
    notes.wait("start", 1)
    (event,) = worker.wait_event("process.given_up")
    assert "blocking_function" in event["place"]
    assert worker.wait_event("process.died")[0]["code"] == 70


# Stopped


async def test_sigterm_lets_a_running_job_end(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-13, CASE-27: fetching stops at once, the job ends although it outlasts the TTL, exit 0 soon after."""
    worker = start("--concurrency", "1", "--grace", "15")
    worker.ready()
    running = await queue.enqueue("sleep", 3.0)
    notes.wait("start", 1)
    waiting = [await queue.enqueue("sleep", 0.0) for _ in range(5)]
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert await running.status() is State.SUCCEEDED
    assert {await job.status() for job in waiting} == {State.QUEUED}
    assert await read_instances(connections_of(queue).store) == [], "it deregistered"
    assert len(notes.all("start")) == 1


async def test_the_grace_runs_out(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-28, CASE-31: cancelled, its cleanup runs, handed back, no attempt spent; it starts elsewhere."""
    worker = start("--concurrency", "1", "--grace", "0.5")
    (lease,) = worker.ready()
    job = await queue.enqueue("sleep", 60.0)
    notes.wait("start", 1)
    other = start("--concurrency", "1")
    (other_lease,) = other.ready()
    started = time.monotonic()
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0
    notes.wait("start", 2)
    assert time.monotonic() - started < 10
    assert [note[2] for note in notes.all("start")] == [lease, other_lease] and len(notes.all("cleanup")) == 1
    info = await job.info()
    assert (info.attempts, info.interruptions, info.recoveries) == (1, 1, 0), "the run that is under way, and no other"
    await job.cancel()
    with pytest.raises(JobCancelledError):
        await job.result(timeout=10)


async def test_a_second_signal_skips_the_grace(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-29: a job that swallows its cancellation blocks nothing; the exit is non-zero, the job is handed back."""
    worker = start("--concurrency", "1", "--grace", "60")
    worker.ready()
    job = await queue.enqueue("stubborn", 60.0)
    notes.wait("start", 1)
    worker.signal(signal.SIGTERM)
    worker.wait_event("shutdown.phase_started", 2)
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 1
    assert await job.status() is State.QUEUED
    assert (await job.info()).interruptions == 1


async def test_an_idle_worker_stops_in_order(start: Start, queue: TrackedQueue) -> None:
    worker = start("--processes", "2")
    worker.ready(2)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert await read_instances(connections_of(queue).store) == []


async def test_sigusr1_only_stops_fetching(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    worker = start("--concurrency", "2")
    worker.ready()
    running = await queue.enqueue("sleep", 1.0)
    notes.wait("start", 1)
    worker.signal(signal.SIGUSR1)
    worker.wait_event("instance.quieted")
    waiting = await queue.enqueue("sleep", 0.0)
    await running.result(timeout=10)
    assert await waiting.status() is State.QUEUED or len(notes.all("start")) == 2


async def test_the_supervisor_is_killed(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-82: the children notice, drain as on SIGTERM, and lose nothing."""
    worker = start("--processes", "2", "--concurrency", "1", "--grace", "0.5")
    worker.ready(2)
    jobs = [await queue.enqueue("sleep", 2.0) for _ in range(2)]
    notes.wait("start", 2)
    children = worker.children()
    worker.process.kill()
    worker.wait_event("instance.stopped", 2)
    await wait_until(lambda: not any(_exists(pid) for pid in children), what="the children to end")
    start("--concurrency", "2").ready()
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    assert [info.recoveries for info in [await job.info() for job in jobs]] == [0, 0]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Wrong from the start


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["no.such:app"], "can't be imported"),
        (["tests.process.jobs:nothing"], "has no 'nothing'"),
        (["tests.process.jobs:NS"], "not a TrackedQueue"),
        (["tests.process.jobs"], "module:app"),
        (["tests.process.jobs:app", "--queue", "x=1", "--queue", "y"], "weight"),
        (["tests.process.jobs:app", "--concurrency", "0"], "concurrency"),
        (["tests.process.jobs:app", "--processes", "0"], "processes"),
        (["tests.process.jobs:app", "--heartbeat-ttl", "0.5"], "heartbeat_ttl"),
        (["tests.process.jobs:app", "--redis-url", "http://x"], "redis_url"),
        (["tests.process.jobs:app", "--log-format", "pink"], "log_format"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    server: RedisServer, namespace: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """CASE-67, CASE-83."""
    worker = Worker(server.url, namespace, tmp_path, *arguments[1:], app=arguments[0])
    assert worker.wait(20) == 2
    lines = [line for line in worker.log.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and said in lines[0], worker.log.read_text()


def test_an_app_without_tasks_is_refused(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """CASE-69."""
    (tmp_path / "empty_app.py").write_text("from tracked_queue import TrackedQueue\napp = TrackedQueue()\n")
    worker = Worker(server.url, namespace, tmp_path, app="empty_app:app", PYTHONPATH=str(tmp_path))
    assert worker.wait(20) == 2
    assert "has no tasks" in worker.log.read_text()


# Jobs


async def test_a_running_job_is_cancelled_within_a_second(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-12, CASE-31, CASE-34: also while all slots are busy and beats are far apart."""
    start("--concurrency", "1", HEARTBEAT_INTERVAL="5", HEARTBEAT_TTL="30").ready()
    job = await queue.enqueue("sleep", 60.0)
    notes.wait("start", 1)
    asked = time.monotonic()
    assert await job.cancel()
    with pytest.raises(JobCancelledError):
        await job.result(timeout=10)
    assert time.monotonic() - asked < 5
    assert len(notes.all("cleanup")) == 1
    assert not await job.cancel()


async def test_attempts_are_counted_and_exhausted(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-37: runs are max_attempts; the error travels as text."""
    start().ready()
    job = await queue.enqueue("failing")
    with pytest.raises(JobFailedError) as error:
        await job.result(timeout=20)
    assert error.value.state == "dead" and "attempts exhausted (3 of 3)" in error.value.reason
    assert error.value.error_type == "ValueError" and "raise ValueError" in error.value.traceback
    assert [note[3] for note in notes.all("start")] == ["1", "2", "3"]


async def test_a_job_that_ignores_its_cancellation(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-32: recorded as timed out with a note; its slot stays taken until it ends; the rest goes on."""
    worker = start("--concurrency", "1")
    worker.ready()
    job = await queue.options(timeout=0.3, max_attempts=1).enqueue("stubborn", 3.0)
    good = await queue.enqueue("noop", 1)
    with pytest.raises(JobFailedError, match="did not stop"):
        await job.result(timeout=10)
    assert len(worker.wait_event("job.ignored_cancellation")) == 1
    assert await good.result(timeout=10) == 1
    assert await job.status() is State.DEAD


async def test_a_rolling_deploy_parks_and_unparks(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """CASE-51: the new worker registered before the job was parked, the normal order in a rolling deploy."""
    old = start("--concurrency", "5")
    old.ready()
    new = start("--concurrency", "1", app="tests.process.jobs_new:app")
    new.ready()
    busy = await queue.enqueue("sleep", 1.5)
    notes.wait("start", 1)
    jobs = [await queue.enqueue("new-task") for _ in range(10)]
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    infos = [await job.info() for job in jobs]
    assert all((info.attempts, info.recoveries, info.interruptions) == (1, 0, 0) for info in infos)
    assert old.events("job.parked") or new.events("instance.registered")
    await busy.result(timeout=10)
    overview = await read_overview(connections_of(queue).stores)
    assert overview.parked == ()


async def test_an_unknown_task_waits_visibly(start: Start, queue: TrackedQueue) -> None:
    old = start()
    old.ready()
    job = await queue.enqueue("new-task")
    old.wait_event("job.parked")
    await wait_until(lambda: _parked(queue), what="the parked job in the overview")
    assert await job.status() is State.PARKED
    start(app="tests.process.jobs_new:app").ready()
    assert await job.result(timeout=15) == "new"


async def _parked(queue: TrackedQueue) -> bool:
    return [(item.task, item.length) for item in (await read_overview(connections_of(queue).stores)).parked] == [
        ("new-task", 1)
    ]


async def test_full_collections_leave_out_what_was_loaded(start: Start, queue: TrackedQueue) -> None:
    """Modules and tasks stay: looking through them again and again holds up every job."""
    start()
    assert await (await queue.enqueue("set-aside")).result(timeout=20) > 20_000


async def test_burst_ends_when_the_queues_are_empty(start: Start, queue: TrackedQueue) -> None:
    jobs = await queue.enqueue_many([])
    jobs = [await queue.enqueue("noop", n) for n in range(300)]
    worker = start("--burst", "--processes", "2")
    assert worker.wait(30) == 0
    assert [await job.result(timeout=1) for job in jobs] == list(range(300))
