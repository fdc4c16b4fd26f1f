"""A worker that comes back does not wait for its former self; one that has done its share ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness import wait_for, wait_until
from tests.process.test_workers import ended
from tests.process.worker import Notes, Worker
from tracked_queue import State, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.reports.instances import InstanceReport, read_instances
from tracked_queue.worker.predecessors import Origin, age_s, born_at, origin_of, proof_of_death, sharing

Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(90)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
LONG = {"HEARTBEAT_INTERVAL": "5", "HEARTBEAT_TTL": "120"}


async def test_a_successor_on_the_same_machine_waits_for_no_ttl(
    start: Start, queue: TrackedQueue, notes: Notes
) -> None:
    first = start("--concurrency", "2", **LONG)
    (lease,) = first.ready()
    jobs = [await queue.enqueue("sleep", 3.0) for _ in range(2)]
    notes.wait("start", 2)
    first.vanish()
    second = start("--concurrency", "2", **LONG)
    (event,) = second.wait_event("predecessor.released")
    assert event["lease"] == lease and event["why"] == "its process is gone"
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    assert [info.recoveries for info in [await job.info() for job in jobs]] == [1, 1]


async def test_a_live_neighbour_is_left_alone(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    first = start("--concurrency", "2", PROCESSING_INSTANCE_ID="pod", **LONG)
    first.ready()
    job = await queue.enqueue("sleep", 2.0)
    notes.wait("start", 1)
    second = start("--concurrency", "2", PROCESSING_INSTANCE_ID="pod", **LONG)
    second.ready()
    assert await ended([job]) == [State.SUCCEEDED]
    info = await job.info()
    assert (info.recoveries, info.interruptions) == (0, 0)
    assert not second.events("predecessor.released") and not first.events("lease.lost")


async def test_two_live_workers_of_one_exclusive_label_both_say_so(
    start: Start, queue: TrackedQueue, notes: Notes
) -> None:
    """The second takes the first for dead; the first is fenced, and a job runs again only for a lease that was lost."""
    settings = {"PROCESSING_INSTANCE_ID": "pod", "TRACKED_QUEUE_EXCLUSIVE_LABEL": "1", "HEARTBEAT_TTL": "3"}
    first = start("--concurrency", "5", "--processes", "2", **settings)
    first_leases = first.ready(2)
    jobs = [await queue.enqueue("sleep", 60.0) for _ in range(4)]
    notes.wait("start", 4)
    assert not first.events("label.shared"), "siblings of one supervisor are one worker"
    second = start("--concurrency", "5", "--processes", "2", **settings)
    second.wait_event("predecessor.released")
    second.wait_event("label.shared")
    first.wait_event("label.shared")
    notes.wait("start", 8)
    assert all([await job.cancel() for job in jobs])
    assert set(await ended(jobs)) == {State.CANCELLED}
    more = [await queue.enqueue("sleep", 0.01) for _ in range(20)]
    assert set(await ended(more)) == {State.SUCCEEDED}
    infos = [await job.info() for job in (*jobs, *more)]
    told = sum(info.recoveries for info in infos)
    wait_for(
        lambda: sum(len(worker.events("job.recovered")) for worker in (first, second)) == told,
        what="each recovery told",
    )
    taken = {event["lease"] for event in second.events("predecessor.released")}
    assert taken <= set(first_leases), (
        "the label is taken once, and not again by each process of the second that starts"
    )
    lost = {event["lease"] for worker in (first, second) for event in worker.events("lease.recovered")}
    assert 1 <= max(info.recoveries for info in infos) <= len(lost)
    runs = len(notes.all("start"))
    assert runs <= len(infos) + sum(info.recoveries + info.interruptions for info in infos)


async def test_the_proof() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    me, other = origin_of(os.getpid(), os.getpid()), origin_of(process.pid, process.pid)
    report, now = _report(other), (LONG_AGO + timedelta(seconds=1), LONG_AGO + timedelta(seconds=2))
    assert me.machine == other.machine and me.born and proof_of_death(me, "pod", None, report) is None
    assert proof_of_death(Origin("", 1, "", "p"), "pod", None, report) is None, "a system that tells nothing"
    assert proof_of_death(Origin("elsewhere", 1, "", "p"), "pod", None, report) is None
    assert proof_of_death(me, "pod", now, report) is not None and sharing(me, "pod", [report])
    assert proof_of_death(me, "another", now, report) is None and not sharing(me, "another", [report])
    assert proof_of_death(me, "pod", now, _report(me)) is None, "a sibling"
    ran = LONG_AGO - timedelta(seconds=1), LONG_AGO + timedelta(seconds=1)
    assert proof_of_death(me, "pod", ran, report) is None, "it registered when this program ran already"
    back = LONG_AGO - timedelta(hours=2), LONG_AGO - timedelta(hours=1)
    assert proof_of_death(me, "pod", back, report), "it registered by a clock that was ahead"
    assert 0 <= age_s(other.born) <= age_s(me.born) and age_s("") == 0
    assert proof_of_death(me, "pod", None, _report(Origin(me.machine, os.getpid(), "1", "p"))), "the pid is used again"
    process.send_signal(signal.SIGKILL)
    await wait_until(lambda: born_at(process.pid) is None, what="it to be gone, or a zombie")
    assert proof_of_death(me, "another", None, report) == "its process is gone"
    await process.wait()


def _report(origin: Origin) -> InstanceReport:
    return InstanceReport(
        lease="l", label="pod", host="h", pid=origin.pid, version="", queues=(), task_names=(), concurrency=1, started_at=LONG_AGO,
        seen_s=0.0, deadline_s=10.0, revoked=False, quiet=False, owned=0, tests=False, machine=origin.machine,
        born=origin.born, program=origin.program,
    )  # fmt: skip


@pytest.mark.parametrize("limit", ["MAX_JOBS", "MAX_MEMORY"])
async def test_a_process_that_has_done_its_share_is_replaced_in_order(
    start: Start, queue: TrackedQueue, notes: Notes, limit: str
) -> None:
    worker = start("--concurrency", "5", **{f"TRACKED_QUEUE_{limit}": "10" if limit == "MAX_JOBS" else str(2**20)})
    worker.ready()
    jobs = [await queue.enqueue("sleep", 0.01) for _ in range(12)]
    long = await queue.enqueue("sleep", 3.0)
    (event, *_) = worker.wait_event("process.recycled")
    assert limit.lower() in event["why"]
    worker.ready(2)
    assert set(await ended([*jobs, long])) == {State.SUCCEEDED}
    infos = [await job.info() for job in (*jobs, long)]
    assert not any(info.recoveries or info.attempts > 1 for info in infos)
    assert not worker.events("process.died"), "it is no death"
    instances = [item for item in await read_instances(connections_of(queue).store) if item.alive]
    assert len(instances) <= 2
