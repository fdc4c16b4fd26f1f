"""operator/scale.py: how many workers some work wants, and a simulated autoscaler that goes by it."""

from __future__ import annotations

import pytest

from tracked_queue.operator.scale import Scale, scale_of
from tracked_queue.reports.instances import InstanceReport
from tracked_queue.reports.numbers import FleetNumbers
from tracked_queue.reports.queues import Overview, QueueReport


def queue(name: str = "q", length: int = 0, **fields: object) -> QueueReport:
    facts: dict[str, object] = {
        "suspects": 0, "limited": 0, "oldest_s": 1.0 if length else None, "enqueued_per_min": 0.0, "succeeded_per_min": 0.0,
        "failed_per_min": 0.0, "paused": False, "instances": 1, **fields,
    }  # fmt: skip
    return QueueReport(queue=name, length=length, **facts)  # type: ignore[arg-type]


def instance(
    pid: int, owned: int = 0, queues: tuple[str, ...] = ("q",), deadline_s: float = 10.0, slots: int = 10
) -> InstanceReport:
    return InstanceReport(
        lease=f"l{pid}", label="", host="h", pid=pid, version="", queues=queues, task_names=(), concurrency=slots,
        started_at=None, seen_s=0.0, deadline_s=deadline_s, revoked=False, quiet=False, owned=owned, tests=False, machine="m",
        born="", program="",
    )  # fmt: skip


def scaled(
    queues: list[QueueReport], instances: list[InstanceReport], *, due: int = 0, lanes: dict[str, int] | None = None
) -> Scale:
    numbers = FleetNumbers(
        overview=Overview(
            queues=tuple(queues), parked=(), paused_tasks=(), scheduled=0, dead=0, interrupted=()
        ),
        instances=instances, schedules=[], waiting=0, overdue_s=0.0, unrecovered_s=0.0, hold_s=0.0, limits={}, events={}, times={},
        lanes=lanes or {},
    )  # fmt: skip
    return scale_of(numbers, {"q"}, due, target_wait_s=60.0)


def test_work_is_what_waits_runs_is_due_and_was_lost() -> None:
    found = scaled([queue(length=20)], [instance(1, owned=5), instance(2, owned=3, deadline_s=-5)], due=2)
    assert (found.ready, found.active, found.recoverable, found.due, found.work) == (20, 5, 3, 2, 30)
    assert found.replicas == 4, "30 jobs, 10 places each, of which 8 are to be used"


def test_running_jobs_keep_the_fleet_though_nothing_waits() -> None:
    assert scaled([queue()], [instance(1, owned=10), instance(2, owned=1)]).replicas == 2
    assert scaled([queue()], [instance(1)]).replicas == 0


@pytest.mark.parametrize("paused, work", [(True, 0), (False, 50)])
def test_a_paused_queue_wants_nobody(paused: bool, work: int) -> None:
    assert scaled([queue(length=50, paused=paused)], []).work == work


def test_jobs_behind_a_full_limit_want_nobody() -> None:
    found = scaled([queue(length=1000, limited=1000)], [instance(1)], lanes={"q": 3})
    assert found.ready == 3 and found.replicas == 1


def test_a_slow_drain_wants_more_than_places() -> None:
    """Places alone would say 2 workers; at the rate of one the backlog takes ten times as long as it should."""
    found = scaled([queue(length=16, succeeded_per_min=1.6)], [instance(1, owned=0)])
    assert found.replicas == 10
    assert found.drain_s == pytest.approx(600)


def test_never_more_workers_than_jobs() -> None:
    assert scaled([queue(length=2, succeeded_per_min=0.001)], [instance(1)]).replicas == 2


def test_other_queues_do_not_count() -> None:
    found = scaled([queue("other", length=500), queue(length=0)], [instance(1, owned=9, queues=("other",))])
    assert found.work == 0 and found.replicas == 0


def test_a_simulated_autoscaler_settles_without_flapping() -> None:
    """Jobs come at a steady rate; each worker runs 10 of a second each. Scaled every 10 s, it finds its number and keeps it."""
    workers, backlog, history = 1, 0.0, []
    for _ in range(120):
        came, can = 35.0, workers * 10.0
        backlog += came * 10
        done = min(backlog, can * 10)
        backlog -= done
        active = round(min(workers * 10, done / 10))
        facts = queue(length=round(backlog), succeeded_per_min=done * 6)
        share = [instance(n, owned=active // workers) for n in range(workers)]
        workers = max(1, min(40, scaled([facts], share).replicas))
        history.append(workers)
    assert max(history[-60:]) - min(history[-60:]) <= 1, history
    assert 4 <= history[-1] <= 6
