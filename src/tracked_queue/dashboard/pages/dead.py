"""Dead jobs, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...errors import NotVisibleError
from ...reports.dead import DeadFilter, DeadGroup, DeadJob
from .common import GROUPED, MOST_GROUPED, PAGE_ROWS, YOUNGER, actions_for, check_names, dead_groups, picture_of
from .page import ERROR, QUEUE, TASK, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """
    Dead jobs in groups: of the newest `looked_at` of each shard, those that match; `total` is how many dead jobs there are.
    With a `group`, the newest of its jobs in `rows`.
    """

    at: datetime
    total: int | None
    looked_at: int
    groups: tuple[DeadGroup, ...]
    group: DeadGroup | None
    rows: tuple[DeadJob, ...]
    actions: tuple[str, ...]


@page(
    "/dead", "Dead jobs", "dead.html",
    QUEUE, TASK, ERROR,
    Param(name="group", doc="Only this group."),
    YOUNGER,
    Param(name="newest", doc="How many of the newest are looked at.", default=GROUPED, least=1, most=MOST_GROUPED),
)  # fmt: skip
async def dead(ask: Ask) -> Dead:
    """Dead jobs, grouped by what they died of."""
    desk = ask.desk
    check_names(ask)
    which = DeadFilter(queue=ask["queue"], task=ask["task"], reason=ask["error"], younger_than=ask["younger"])
    groups = await dead_groups(ask, which, ask["newest"])
    chosen, rows = None, list[DeadJob]()
    if ask["group"] is not None:
        chosen = next((one for one in groups if one.key == ask["group"]), None)
        if chosen is None:
            raise NotVisibleError("there is no such group among the dead jobs that were looked at")
        of_group = DeadFilter(queue=ask["queue"], task=chosen.task, reason=ask["error"], group=chosen.key)
        rows = desk.seen(
            await desk.cached(("group", of_group), 2.0, lambda: desk.reads.dead(of_group, limit=PAGE_ROWS, newest=True))
        )
    return Dead(
        at=now(),
        total=(await picture_of(ask)).overview.dead if desk.sees_fleet else None,
        looked_at=ask["newest"],
        groups=tuple(groups[:200]),
        group=chosen,
        rows=tuple(rows),
        actions=tuple(actions_for(ask, "dead")),
    )
