"""What several pages share: readings that one look makes for all, and filters."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ...model.checks import check_name
from ...operator.many import ALLOWED, MANY_ACTIONS, ManyAction
from ...operator.picture import Picture
from ...reports.dead import DeadFilter, DeadGroup, grouped
from ...reports.instances import one_each
from ...reports.listing import JobPage as FoundPage
from ...reports.listing import ListedState
from ...reports.minutes import Minute
from ...reports.workflows import Workflow
from .page import Ask, Param, now

HOUR = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The last minutes, counted since 1970, of the whole fleet or a queue; None where nothing was timed."""

    minutes: tuple[int, ...] = ()
    enqueued: tuple[int, ...] = ()
    succeeded: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    wait_p50: tuple[float | None, ...] = ()
    wait_p95: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """An instance that started: a deployment, or a restart."""

    at: datetime
    label: str
    version: str


async def picture_of(ask: Ask) -> Picture:
    """The shared picture of this namespace."""
    return await ask.desk.cached("picture", 1.0, lambda: ask.desk.reads.picture(fresh=True))


async def minutes_of(ask: Ask) -> list[Minute]:
    """The last hour, read once for all."""
    desk = ask.desk
    return await desk.cached("minutes", 5.0, lambda: ask.minutes.last(desk.namespace, HOUR, desk.reads.minutes))


def starts_of(picture: Picture) -> tuple[Start, ...]:
    """Which live instances started in the last hour, the oldest first."""
    found = [
        Start(at=one.started_at, label=one.label, version=one.version)
        for one in one_each(picture.instances)
        if one.alive and one.started_at is not None and (picture.at - one.started_at).total_seconds() < HOUR * 60
    ]
    return tuple(sorted(found, key=lambda one: one.at))[-100:]


def series_of(minutes: Sequence[Minute], queues: set[str] | None = None) -> Series:
    """A chart's numbers, of these queues or of all. Waits are of the whole fleet, so there are none for some queues."""

    def total(counts: Mapping[str, int]) -> int:
        return sum(counts.values()) if queues is None else sum(counts.get(name, 0) for name in queues)

    return Series(
        minutes=tuple(one.at for one in minutes),
        enqueued=tuple(total(one.enqueued) for one in minutes),
        succeeded=tuple(total(one.succeeded) for one in minutes),
        failed=tuple(total(one.failed) for one in minutes),
        wait_p50=tuple(one.waits.quantile(0.5) for one in minutes) if queues is None else (),
        wait_p95=tuple(one.waits.quantile(0.95) for one in minutes) if queues is None else (),
    )


async def dead_groups(ask: Ask, which: DeadFilter, look_at: int) -> list[DeadGroup]:
    """Dead jobs that they may see in groups, of about so many of the newest."""
    desk = ask.desk
    found = await desk.cached(("dead", which, look_at), 3.0, lambda: desk.reads.newest_dead(which, look_at))
    return grouped(desk.seen(found), now())


# How many of the newest dead jobs are grouped, unless more are asked for.
GROUPED, MOST_GROUPED = 2000, 10_000
YOUNGER = Param(
    name="younger",
    doc="Of the dead: only those that died within this time: seconds, or 15m, 2h, 7d.",
    least=1,
    most=100 * 366 * 86400,
    is_time=True,
)


PAGE_ROWS = 50


async def listed(ask: Ask, state: ListedState) -> FoundPage:
    """A page of a list, read once for all who look at it."""
    queue, task, error, older, start = (ask.args.get(name) for name in ("queue", "task", "error", "older", "from"))

    def read() -> Awaitable[FoundPage]:
        return ask.desk.reads.jobs(
            state, queue=queue, task=task, error=error, older=older, limit=PAGE_ROWS, start=start
        )

    hidden = not ask.desk.sees_fleet
    start = ask.cursors.show(start) if hidden and start is not None else start
    found = await ask.desk.cached(("jobs", state, queue, task, error, older, start), 1.0, read)
    return replace(found, next=ask.cursors.hide(found.next)) if hidden and found.next is not None else found


def actions_for(ask: Ask, state: str) -> list[ManyAction]:
    """What this person may do with jobs of a state."""
    queue, task = ask.args.get("queue") or "", ask.args.get("task") or ""
    return [action for action in MANY_ACTIONS if state in ALLOWED[action] and ask.desk.may(action, queue, task)]


def check_names(ask: Ask) -> None:
    """Raises UsageError for a queue or task that can't be one."""
    for kind in ("queue", "task"):
        if ask[kind] is not None:
            check_name(kind, ask[kind])


async def lost_leases(ask: Ask) -> tuple[str, ...]:
    """Leases of instances that are gone and own jobs."""
    return tuple(one.lease for one in (await picture_of(ask)).instances if not one.alive and one.owned)


def seen_workflow(ask: Ask, found: Workflow) -> Workflow:
    """What is not for them to see is left out."""
    jobs = [one for one in found.jobs if ask.desk.may("view", one.queue, one.task)]
    if not ask.desk.sees_fleet:
        ids = {one.id for one in jobs}
        jobs = [replace(one, after=tuple(before for before in one.after if before in ids)) for one in jobs]
    return Workflow(root=found.root, jobs=tuple(jobs), whole=found.whole and len(jobs) == len(found.jobs))
