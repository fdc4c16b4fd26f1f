"""Queues, and one queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ...errors import NotVisibleError
from ...operator.explanation import Explanation
from ...operator.picture import Picture
from ...reports.instances import one_each
from ...reports.listing import JobRow
from ...reports.minutes import Minute
from ...reports.queues import QueueReport
from .common import Series, minutes_of, picture_of, series_of
from .page import FROM, ROWS, Ask, Param, page


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A queue, in how long it is empty at this pace (None: it is not getting shorter), its slots, and its last hour."""

    queue: QueueReport
    drain_s: float | None
    slots: int
    succeeded: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """A part of the queues, and how many match."""

    at: datetime
    rows: tuple[QueueRow, ...]
    matching: int
    next: int | None


def _drain(one: QueueReport) -> float | None:
    pace = one.succeeded_per_min - one.enqueued_per_min
    if not one.length:
        return 0.0
    return one.length / pace * 60 if pace > 0 else None


def _row(one: QueueReport, picture: Picture, minutes: Sequence[Minute]) -> QueueRow:
    live = [item for item in picture.instances if item.alive and not item.quiet and one.queue in item.queues]
    return QueueRow(
        queue=one,
        drain_s=_drain(one),
        slots=sum(min(item.concurrency, item.most.get(one.queue, item.concurrency)) for item in one_each(live)),
        succeeded=tuple(minute.succeeded.get(one.queue, 0) for minute in minutes),
    )


_SORTS = {
    "problem": lambda one: (not one.unserved, not (one.paused and one.length), -(one.oldest_s or 0.0), one.queue),
    "length": lambda one: (-one.length, one.queue),
    "age": lambda one: (-(one.oldest_s or 0.0), one.queue),
    "name": lambda one: one.queue,
    "failed": lambda one: (-one.failed_per_min, one.queue),
}


@page(
    "/queues", "Queues", "queues.html",
    Param(name="like", doc="Only queues with this in their name."),
    Param(name="sort", doc="The order.", default="problem", words=tuple(_SORTS)),
    FROM,
)  # fmt: skip
async def queues(ask: Ask) -> Queues:
    """Queues: how long, how old, how fast, who serves them; what is in trouble first."""
    picture, like = await picture_of(ask), (ask["like"] or "").casefold()
    found = [
        one for one in picture.overview.queues if like in one.queue.casefold() and ask.desk.may("view", queue=one.queue)
    ]
    found.sort(key=_SORTS[ask["sort"]])
    first, minutes = ask["from"], await minutes_of(ask)
    return Queues(
        at=picture.at,
        rows=tuple(_row(one, picture, minutes) for one in found[first : first + ROWS]),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePage:
    """One queue: how it stands and why, its last hour, and the jobs at its head."""

    at: datetime
    row: QueueRow
    explanations: tuple[Explanation, ...]
    series: Series
    instances: tuple[str, ...]
    head: tuple[JobRow, ...]


@page("/queue", "Queue", "queue.html", Param(name="name", doc="The queue.", needed=True))
async def queue(ask: Ask) -> QueuePage:
    """One queue: how it stands, why, and the jobs that are next."""
    desk, name = ask.desk, ask["name"]
    desk.must_see(queue=name)
    picture = await picture_of(ask)
    found = next((one for one in picture.overview.queues if one.queue == name), None)
    if found is None:
        raise NotVisibleError(f"there is no queue {name}")
    minutes = await minutes_of(ask)
    jobs = await desk.cached(("head", name), 1.0, lambda: desk.reads.jobs("queued", queue=name, limit=20))
    serving = sorted(one.label for one in picture.instances if one.alive and name in one.queues)
    return QueuePage(
        at=picture.at,
        row=_row(found, picture, minutes),
        explanations=desk.explained(await desk.cached(("queue", name), 1.0, lambda: desk.reads.explain(queue=name))),
        series=series_of(minutes, {name}),
        instances=tuple(dict.fromkeys(serving))[:50] if desk.sees_fleet else (),
        head=tuple(desk.seen(jobs.rows)),
    )
