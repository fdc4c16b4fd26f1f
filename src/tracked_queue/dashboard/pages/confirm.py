"""What can't be undone is asked once more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...errors import NotVisibleError, UsageError
from ...model.checks import check_name
from ...operator.many import ManyAction
from ..desk import MOST_IDS, NO_JOB
from .common import Orphan
from .page import Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """An act on some jobs that can't be undone, before it is done."""

    at: datetime
    action: ManyAction
    jobs: tuple[Orphan, ...]
    back: str


@page(
    "/confirm", "Are you sure?", "confirm.html",
    Param(name="action", doc="What is to be done.", words=("purge", "delete", "discard"), needed=True),
    Param(name="back", doc="The page to go to afterwards.", default="/", length=8000),
    with_ids=True,
)  # fmt: skip
async def confirm(ask: Ask) -> Confirm:
    """What an act that can't be undone is about; nothing is done yet."""
    desk, ids = ask.desk, list(dict.fromkeys(ask.ids))
    if not ids or len(ids) > MOST_IDS:
        raise UsageError(f"select 1 to {MOST_IDS} jobs")
    for job_id in ids:
        check_name("job id", job_id)
    places = await desk.reads.places(ids)
    jobs = []
    for job_id in ids:
        if job_id not in places or not desk.may("view", *places[job_id]):
            raise NotVisibleError(NO_JOB.format(job_id))
        desk.must(ask["action"], *places[job_id])
        jobs.append(Orphan(id=job_id, queue=places[job_id][0], task=places[job_id][1], lease=""))
    return Confirm(at=now(), action=ask["action"], jobs=tuple(jobs), back=ask["back"])
