"""What can't be undone is asked once more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...operator.many import ManyAction
from .page import Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One of the jobs that an act is about."""

    id: str
    task: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """An act on some jobs that can't be undone, before it is done."""

    at: datetime
    action: ManyAction
    jobs: tuple[Named, ...]
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
    places = await desk.must_jobs(ask["action"], ids)
    jobs = tuple(Named(id=job_id, queue=places[job_id][0], task=places[job_id][1]) for job_id in ids)
    return Confirm(at=now(), action=ask["action"], jobs=jobs, back=ask["back"])
