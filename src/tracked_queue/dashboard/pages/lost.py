"""Lost instances, and the jobs that they left behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...errors import NotVisibleError
from ...operator.many import Selection
from ...reports.instances import InstanceReport
from ...reports.memory import RecoveryReport
from .common import PAGE_ROWS, check_names, picture_of
from .page import QUEUE, TASK, Ask, Param, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A job of an instance that is gone."""

    id: str
    task: str
    queue: str
    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """
    Instances that are gone with jobs that nobody has recovered yet: how many of each, and some of the jobs, of one of them if a
    lease is given. `next` is how many rows to leave out for the next ones.
    """

    at: datetime
    instances: tuple[InstanceReport, ...]
    orphans: int
    rows: tuple[Orphan, ...]
    next: int | None
    recoveries: tuple[RecoveryReport, ...]
    recovered_jobs: int
    auto_recovery: bool


@page(
    "/lost", "Lost instances", "lost.html", Param(name="lease", doc="Only this instance."), QUEUE, TASK,
    Param(name="from", doc="How many rows to leave out.", default=0, most=100_000),
)  # fmt: skip
async def lost(ask: Ask) -> Lost:
    """Instances that are gone, and the jobs that they left behind."""
    desk, first = ask.desk, ask["from"]
    desk.must_see_fleet()
    check_names(ask)
    picture = await picture_of(ask)
    gone = [one for one in picture.instances if not one.alive and one.owned]
    lease = ask["lease"]
    if lease is not None and not any(one.lease == lease for one in gone):
        raise NotVisibleError(f"there is no lost instance {lease} with jobs: they were recovered, or it is alive")
    which = Selection(state="lost", lease=lease, queue=ask["queue"], task=ask["task"])
    key = "lost", lease, which.queue, which.task, first
    found = await desk.cached(key, 1.0, lambda: desk.reads.select(which, first + PAGE_ROWS + 1)) if gone else []
    recoveries = await desk.cached("recoveries", 1.0, lambda: desk.reads.recoveries(200))
    return Lost(
        at=picture.at,
        instances=tuple(gone),
        orphans=sum(one.owned for one in gone),
        rows=tuple(
            Orphan(id=one.id, task=one.task, queue=one.queue, lease=one.lease)
            for one in found[first : first + PAGE_ROWS]
        ),
        next=first + PAGE_ROWS if len(found) > first + PAGE_ROWS else None,
        recoveries=tuple(recoveries[:20]),
        recovered_jobs=sum(one.jobs for one in recoveries),
        auto_recovery=desk.settings.auto_recovery,
    )
