"""How the fleet stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ...operator.explanation import Explanation, plural, seconds
from ...reports.instances import InstanceReport, one_each
from ...reports.memory import RecoveryReport
from .common import Series, Start, minutes_of, picture_of, series_of, starts_of
from .page import Ask, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The fleet in numbers; `running` is what live instances own."""

    queued: int
    running: int
    slots: int
    scheduled: int
    dead: int
    parked: int
    queues: int
    instances: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Whether every job has an owner or waits for one: how many do not, and what was recovered last."""

    kept: bool
    unowned: int
    last: RecoveryReport | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """How the fleet stands."""

    at: datetime
    promise: Promise | None
    problems: tuple[Explanation, ...]
    totals: Totals | None
    series: Series
    starts: tuple[Start, ...]


@page("/", "Home", "home.html")
async def home(ask: Ask) -> Home:
    """How the fleet stands: the promise, what is wrong, and how much there is."""
    desk = ask.desk
    picture = await picture_of(ask)
    whole = desk.sees_fleet
    queues = [one for one in picture.overview.queues if desk.may("view", queue=one.queue)]
    last = await desk.cached("last recovery", 2.0, lambda: desk.reads.recoveries(1)) if whole else []
    live = [one for one in picture.instances if one.alive]
    workers = one_each(live)
    lost = [one for one in picture.instances if not one.alive and one.owned]
    return Home(
        at=picture.at,
        promise=_promise(lost, last[0] if last else None, picture.at) if whole else None,
        problems=tuple(desk.seen_problems(picture.problems)),
        totals=Totals(
            queued=sum(one.length for one in picture.overview.queues),
            running=sum(one.owned for one in live),
            slots=sum(one.concurrency for one in workers),
            scheduled=picture.overview.scheduled,
            dead=picture.overview.dead,
            parked=sum(one.length for one in picture.overview.parked),
            queues=len(queues),
            instances=len(workers),
            lost=len(one_each(lost)),
        )
        if whole
        else None,
        series=series_of(await minutes_of(ask), None if whole else {one.queue for one in queues}),
        starts=starts_of(picture) if whole else (),
    )


def _promise(lost: Sequence[InstanceReport], last: RecoveryReport | None, at: datetime) -> Promise:
    unowned = sum(one.owned for one in lost)
    if unowned:
        said = f"{plural(unowned, 'job')} without an owner, held by {plural(len(one_each(lost)), 'lost instance')}."
    else:
        said = "0 jobs without an owner."
    if last is None:
        said += " No recent recoveries."
    elif last.at is not None:
        ago = seconds(max(0.0, (at - last.at).total_seconds()))
        dead = f", {last.dead} of them died" if last.dead else ""
        said += f" Last recovery {ago} ago: {plural(last.jobs, 'job')} of {last.label or last.lease}{dead}."
    return Promise(kept=not unowned, unowned=unowned, last=last, sentence=said)
