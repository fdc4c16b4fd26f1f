"""One job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...model.checks import check_name
from ...model.record import JobInfo
from ...operator.explanation import Explanation, seconds
from ...operator.many import ALLOWED, MANY_ACTIONS
from ...operator.timeline import recovery
from ...reports.workflows import Workflow
from .common import lost_leases, seen_workflow
from .page import Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that happened to a job; `lease` is that of the run that it is about."""

    at: datetime | None
    what: str
    lease: str
    detail: str


def timeline(info: JobInfo, explanation: Explanation) -> tuple[Step, ...]:
    """What happened to a job, in order: its runs as they are known, and what else its history has."""
    steps = []
    if not any(event.kind == "requeued" for event in info.history):  # else it is when it was queued again
        steps.append(Step(at=info.queued_at, what="enqueued", lease="", detail=""))
    told = set[str]()
    for number, run in enumerate(explanation.runs, 1):
        told.add(str(run.delivery))
        steps.append(Step(at=run.started_at, what=f"run {number} started", lease=run.lease, detail=""))
        if run.ended_at is not None:
            took = seconds(max(0.0, (run.ended_at - run.started_at).total_seconds()))
            detail = f"after {took}" + (
                f": {recovery(run.detail) if run.end == 'recovered' else run.detail}" if run.detail else ""
            )
            steps.append(Step(at=run.ended_at, what=f"run {number} {run.end}", lease=run.lease, detail=detail))
        if run.late_at is not None:
            beside = f", {seconds(run.overlap_s)} beside the next run" if run.overlap_s else ""
            detail = f"it came to {run.late_outcome}, which was not counted{beside}"
            steps.append(Step(at=run.late_at, what=f"run {number} came back too late", lease=run.lease, detail=detail))
    for event in info.history:
        if event.kind != "late" and not (event.delivery in told and event.kind != "cancel"):
            steps.append(Step(at=event.at, what=event.kind, lease=event.lease, detail=event.detail))
    if info.due_at is not None:
        steps.append(Step(at=info.due_at, what="due", lease="", detail=""))
    if info.finished_at is not None and not any(run.ended_at == info.finished_at for run in explanation.runs):
        steps.append(Step(at=info.finished_at, what=str(info.state), lease="", detail=info.reason or ""))
    return tuple(sorted(steps, key=lambda one: one.at.timestamp() if one.at else 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """
    One job: why it is as it is, its record, what happened to it, and what comes before and after it. `arguments` says whether
    arguments and results are shown to this person; values under masked names never are. `actions` are what they may do with it
    now.
    """

    at: datetime
    explanation: Explanation
    job: JobInfo
    timeline: tuple[Step, ...]
    arguments: bool
    actions: tuple[str, ...]
    lost_lease: str | None
    workflow: Workflow | None


@page("/job", "Job", "job.html", Param(name="id", doc="The job.", needed=True))
async def job(ask: Ask) -> JobPage:
    """One job: why it is where it is, what happened to it, and what it carries."""
    desk, job_id = ask.desk, check_name("job id", ask["id"])
    info = await desk.job(job_id)
    (explanation,) = desk.explained(await desk.cached(("job", job_id), 1.0, lambda: desk.reads.explain(job_id)))
    lost = await _lost_lease(ask, info)
    state = "lost" if lost else "retrying" if info.state == "scheduled" else str(info.state)
    workflow = None
    if info.after or info.waits_for or info.state in ("waiting", "queued", "scheduled", "active", "dead", "parked"):
        found = await desk.cached(("workflow", job_id), 1.0, lambda: desk.reads.workflow(job_id))
        if len(found.jobs) > 1:
            workflow = seen_workflow(ask, found)
    return JobPage(
        at=now(),
        explanation=explanation,
        job=info,
        timeline=timeline(info, explanation),
        arguments=desk.may("see_arguments", info.queue, info.task),
        actions=tuple(
            action for action in MANY_ACTIONS if state in ALLOWED[action] and desk.may(action, info.queue, info.task)
        ),
        lost_lease=lost,
        workflow=workflow,
    )


async def _lost_lease(ask: Ask, info: JobInfo) -> str | None:
    """The lease that an active job was handed to, if that is gone."""
    if info.state != "active" or info.lease is None:
        return None
    return info.lease if info.lease in await lost_leases(ask) else None
