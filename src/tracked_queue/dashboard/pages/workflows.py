"""Workflows: jobs that wait for others, and the graph around one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ...model.checks import check_name
from ...reports.listing import JobRow
from ...reports.workflows import Workflow, WorkflowJob
from .common import check_names, listed, seen_workflow
from .page import NEXT, QUEUE, TASK, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflows:
    """Jobs that wait for others; each leads to the graph around it."""

    at: datetime
    rows: tuple[JobRow, ...]
    next: str | None


@page("/workflows", "Workflows", "workflows.html", QUEUE, TASK, NEXT)
async def workflows(ask: Ask) -> Workflows:
    """Jobs that wait for others."""
    check_names(ask)
    found = await listed(ask, "waiting")
    return Workflows(at=now(), rows=tuple(ask.desk.seen(found.rows)), next=found.next)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPage:
    """The jobs around one: how many of them are in each state, and what keeps those that wait."""

    at: datetime
    workflow: Workflow
    states: Mapping[str, int]
    blocking: tuple[WorkflowJob, ...]


@page("/workflow", "Workflow", "workflow.html", Param(name="id", doc="A job of it.", needed=True))
async def workflow(ask: Ask) -> WorkflowPage:
    """A job with those that it comes after and those that wait for it, as a graph."""
    job_id = check_name("job id", ask["id"])
    await ask.desk.job(job_id)
    whole = await ask.desk.cached(("workflow", job_id), 1.0, lambda: ask.desk.reads.workflow(job_id))
    found = seen_workflow(ask, whole)
    states: dict[str, int] = {}
    for one in found.jobs:
        states[one.state or "gone"] = states.get(one.state or "gone", 0) + 1
    waited_for = {before for one in found.jobs if one.state == "waiting" for before in one.after}
    blocking = [one for one in found.jobs if one.id in waited_for and one.state not in ("succeeded", "waiting", "")]
    return WorkflowPage(at=now(), workflow=found, states=states, blocking=tuple(blocking))
