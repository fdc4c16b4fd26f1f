"""Jobs as lists, by state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...reports.listing import LISTED_STATES, JobRow
from .common import actions_for, check_names, listed, lost_leases
from .page import ERROR, NEXT, OLDER, QUEUE, TASK, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """
    Jobs of a state; `looked_at` is how many records were read to find them, and `next` is where the list goes on. `actions` are
    what this person may do with all that match. `lost` are the leases of active jobs whose instances are gone.
    """

    at: datetime
    state: str
    rows: tuple[JobRow, ...]
    looked_at: int
    next: str | None
    actions: tuple[str, ...]
    lost: tuple[str, ...]


@page(
    "/jobs", "Jobs", "jobs.html",
    Param(name="state", doc="Which.", default="queued", words=LISTED_STATES),
    QUEUE, TASK, ERROR, OLDER, NEXT,
)  # fmt: skip
async def jobs(ask: Ask) -> Jobs:
    """Jobs of a state: queued ones in the order in which they are taken, ended ones with the newest first."""
    desk, state = ask.desk, ask["state"]
    check_names(ask)
    found = await listed(ask, state)
    return Jobs(
        at=now(),
        state=state,
        rows=tuple(desk.seen(found.rows)),
        looked_at=found.looked_at,
        next=found.next,
        actions=tuple(actions_for(ask, state)),
        lost=await lost_leases(ask) if state == "active" else (),
    )
