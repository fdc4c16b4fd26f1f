"""Bulk actions: their plan, how far they have got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...errors import UsageError
from ...operator.many import ALLOWED, MANY_ACTIONS, Count, ManyAction, Selection
from ...reports.dead import DeadGroup
from ...reports.listing import LISTED_STATES
from ..bulk import BulkReport
from .common import MOST_GROUPED, YOUNGER, dead_groups
from .page import ERROR, OLDER, QUEUE, TASK, Ask, Param, now, page

_SELECTED = (*LISTED_STATES, "lost")
BULK_PARAMS = (
    Param(name="action", doc="What to do.", words=MANY_ACTIONS, needed=True),
    Param(name="state", doc="With jobs of which state.", words=_SELECTED, needed=True),
    QUEUE,
    TASK,
    ERROR,
    OLDER,
    YOUNGER,
    Param(name="group", doc="Of the dead: only this group."),
    Param(name="lease", doc="Of the lost: only this instance."),
    Param(name="rate", doc="At most so many a second.", least=1, most=100_000),
    Param(name="limit", doc="At most so many in all.", least=1, most=100_000_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPlan:
    """
    What a bulk action would do, before it is begun: how many jobs match (exact, or at least so many), and the first of them; of
    a group, what its jobs died of.
    """

    at: datetime
    action: ManyAction
    which: Selection
    rate: int | None
    limit: int | None
    count: Count
    number: int
    confirm: str | None
    group: DeadGroup | None


def selection_of(args: Mapping[str, Any]) -> Selection:
    """Which jobs a query asks for. Raises UsageError."""
    return Selection(
        state=args["state"],
        queue=args["queue"],
        task=args["task"],
        error=args["error"],
        older_s=args["older"],
        younger_s=args["younger"],
        group=args["group"],
        lease=args["lease"],
    )


# Of so many records it is counted how many match.
COUNTED = 10_500
# Above so many jobs the number must be typed.
UNTYPED = 100


@page("/bulk/plan", "Bulk action", "bulk_plan.html", *BULK_PARAMS)
async def bulk_plan(ask: Ask) -> BulkPlan:
    """How many jobs a bulk action would be about, and the first of them; nothing is done yet."""
    which, desk, action = selection_of(ask.args), ask.desk, ask["action"]
    if which.state not in ALLOWED[action]:
        raise UsageError(f"{action} is for jobs that are {', '.join(ALLOWED[action])}; these are {which.state}")
    desk.must_many(action, which)
    allowed = None if desk.sees_fleet else lambda queue, task: desk.may(action, queue, task)
    found = await desk.reads.count(which, COUNTED, allowed)
    number = found.number if ask["limit"] is None else min(found.number, ask["limit"])
    group = None
    if which.group is not None:
        group = next(iter(await dead_groups(ask, which.dead_filter, MOST_GROUPED)), None)
    return BulkPlan(
        at=now(),
        action=action,
        which=which,
        rate=ask["rate"],
        limit=ask["limit"],
        count=found,
        number=number,
        confirm=str(number) if number > UNTYPED else None,
        group=group,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkList:
    """Bulk actions of this process, the newest first."""

    at: datetime
    rows: tuple[BulkReport, ...]


@page("/bulk", "Bulk actions", "bulk.html")
async def bulk(ask: Ask) -> BulkList:
    """Bulk actions: what runs, and how far it is."""
    return BulkList(at=now(), rows=tuple(ask.bulks.list(ask.desk)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPage:
    """One bulk action."""

    at: datetime
    bulk: BulkReport
    can_stop: bool


@page("/bulk/act", "Bulk action", "bulk_act.html", Param(name="id", doc="The bulk action.", needed=True))
async def bulk_act(ask: Ask) -> BulkPage:
    """One bulk action: how far it has got, and what was left alone."""
    found = ask.bulks.get(ask.desk, ask["id"])
    can_stop = found.state == "running" and ask.desk.may("stop", found.which.queue or "", found.which.task or "")
    return BulkPage(at=now(), bulk=found, can_stop=can_stop)
