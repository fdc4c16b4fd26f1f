"""Jobs: lists by state, one job, dead ones in groups, lost ones, schedules, workflows, search, and acts on many."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from ...errors import NotVisibleError, UsageError
from ...model.checks import MAX_NAME, check_name
from ...model.record import JobInfo
from ...operator.explanation import Explanation, seconds
from ...operator.many import ALLOWED, MANY_ACTIONS, Count, ManyAction, Selection
from ...reports.dead import DeadFilter, DeadGroup, DeadJob, grouped
from ...reports.instances import InstanceReport
from ...reports.listing import LISTED_STATES, JobRow, ListedState
from ...reports.listing import JobPage as FoundPage
from ...reports.memory import RecoveryReport
from ...reports.runs import Run
from ...reports.schedules import ScheduleReport
from ...reports.workflows import Workflow, WorkflowJob
from ..bulk import BulkReport
from ..desk import MOST_IDS, NO_JOB
from .fleet import CAUSES, dead_groups, picture_of
from .page import ERROR, FROM, MOST_TEXT, NEXT, OLDER, QUEUE, ROWS, TASK, Ask, Param, now, page

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
    _check_names(ask)
    found = await _listed(ask, state)
    return Jobs(
        at=now(),
        state=state,
        rows=tuple(desk.seen(found.rows)),
        looked_at=found.looked_at,
        next=found.next,
        actions=tuple(actions_for(ask, state)),
        lost=await _lost_leases(ask) if state == "active" else (),
    )


async def _listed(ask: Ask, state: ListedState) -> FoundPage:
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


def _check_names(ask: Ask) -> None:
    for kind in ("queue", "task"):
        if ask[kind] is not None:
            check_name(kind, ask[kind])


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
            detail = f"after {took}" + (f": {_said_of(run)}" if run.detail else "")
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


def _said_of(run: Run) -> str:
    """What a run's end says of itself; that of a recovery has three words: how the loss was known, what became of it, blame."""
    if run.end != "recovered":
        return run.detail
    cause, fate, blame = [*run.detail.split(" "), "", ""][:3]
    blamed = {
        "charged": ", and was charged",
        "suspect": ", and came under suspicion",
        "acquitted": ", and was acquitted",
    }
    return f"{CAUSES.get(cause, cause)}; the job was {fate or 'moved'}{blamed.get(blame, '')}"


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
            workflow = _seen_workflow(ask, found)
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
    return info.lease if info.lease in await _lost_leases(ask) else None


async def _lost_leases(ask: Ask) -> tuple[str, ...]:
    return tuple(one.lease for one in (await picture_of(ask)).instances if not one.alive and one.owned)


# Dead jobs


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
    _check_names(ask)
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


# Lost instances and their jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A job of an instance that is gone."""

    id: str
    task: str
    queue: str
    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """
    Instances that are gone with jobs that nobody has recovered yet: how many of each, and some of the jobs, of one of them if a
    lease is given. `next` is how many rows to leave out for the next ones.
    """

    at: datetime
    instances: tuple[InstanceReport, ...]
    orphans: int
    rows: tuple[Orphan, ...]
    next: int | None
    recoveries: tuple[RecoveryReport, ...]
    recovered_jobs: int
    auto_recovery: bool


@page(
    "/lost", "Lost instances", "lost.html", Param(name="lease", doc="Only this instance."), QUEUE, TASK,
    Param(name="from", doc="How many rows to leave out.", default=0, most=100_000),
)  # fmt: skip
async def lost(ask: Ask) -> Lost:
    """Instances that are gone, and the jobs that they left behind."""
    desk, first = ask.desk, ask["from"]
    desk.must_see_fleet()
    _check_names(ask)
    picture = await picture_of(ask)
    gone = [one for one in picture.instances if not one.alive and one.owned]
    lease = ask["lease"]
    if lease is not None and not any(one.lease == lease for one in gone):
        raise NotVisibleError(f"there is no lost instance {lease} with jobs: they were recovered, or it is alive")
    which = Selection(state="lost", lease=lease, queue=ask["queue"], task=ask["task"])
    key = "lost", lease, which.queue, which.task, first
    found = await desk.cached(key, 1.0, lambda: desk.reads.select(which, first + PAGE_ROWS + 1)) if gone else []
    recoveries = await desk.cached("recoveries", 1.0, lambda: desk.reads.recoveries(200))
    return Lost(
        at=picture.at,
        instances=tuple(gone),
        orphans=sum(one.owned for one in gone),
        rows=tuple(
            Orphan(id=one.id, task=one.task, queue=one.queue, lease=one.lease)
            for one in found[first : first + PAGE_ROWS]
        ),
        next=first + PAGE_ROWS if len(found) > first + PAGE_ROWS else None,
        recoveries=tuple(recoveries[:20]),
        recovered_jobs=sum(one.jobs for one in recoveries),
        auto_recovery=desk.settings.auto_recovery,
    )


# Schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """
    A schedule, its next ticks (none where the rule can't be read), the zone of its rule, and the job of its last tick.
    `silent`: no instance has run it for a while.
    """

    schedule: ScheduleReport
    next_ticks: tuple[datetime, ...]
    zone: str
    last_job: str | None
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """A part of the schedules; `zone` is that of this dashboard, in which ticks are shown besides their own."""

    at: datetime
    rows: tuple[ScheduleRow, ...]
    matching: int
    next: int | None
    zone: str
    can_trigger: bool


# An instance reports its schedules at least this often (see worker/scheduler.py).
SILENT_S = 90.0
TICKS = 5
MOST_RULE = 200


@page("/schedules", "Schedules", "schedules.html", Param(name="like", doc="Only with this in the name or task."), FROM)
async def schedules(ask: Ask) -> Schedules:
    """Schedules: what runs when, when it ran last, and when it runs next."""
    desk, like, first = ask.desk, (ask["like"] or "").casefold(), ask["from"]
    found = [
        one
        for one in desk.seen(await desk.cached("schedules", 2.0, desk.reads.schedules))
        if like in one.name.casefold() or like in one.task.casefold()
    ]
    moment = now()
    rows = []
    for one in found[first : first + ROWS]:
        ticks, zone = next_ticks(one.rule, moment)
        last_job = f"cron:{one.name}:{round(one.last_tick.timestamp() * 1000)}" if one.last_tick else None
        rows.append(
            ScheduleRow(schedule=one, next_ticks=ticks, zone=zone, last_job=last_job, silent=one.seen_s > SILENT_S)
        )
    return Schedules(
        at=moment,
        rows=tuple(rows),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
        zone=ask.zone.key,
        can_trigger=desk.has_code,
    )


def next_ticks(rule: str, after: datetime) -> tuple[tuple[datetime, ...], str]:
    """The next ticks of a rule as the store has it, in its zone, and the zone; none for what is no rule. Always bounded."""
    if len(rule) > MOST_RULE:
        return (), ""
    if rule.startswith("every "):
        try:
            step = round(float(rule.removeprefix("every ").removesuffix(" s")) * 1000)
        except (ValueError, OverflowError):
            return (), ""
        if not 0 < step < 2**45:
            return (), ""
        first = int(after.timestamp() * 1000) // step * step
        try:
            return tuple(datetime.fromtimestamp((first + at * step) / 1000, UTC) for at in range(1, TICKS + 1)), "UTC"
        except (ValueError, OverflowError, OSError):
            return (), ""
    expression, _, name = rule.rpartition(" ")
    try:
        zone = ZoneInfo(name)
        found = tuple(islice(CronSim(expression, after.astimezone(zone)), TICKS))
    except (CronSimError, ZoneInfoNotFoundError, ValueError, OSError, OverflowError):
        return (), ""
    return found, name


# Workflows


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflows:
    """Jobs that wait for others; each leads to the graph around it."""

    at: datetime
    rows: tuple[JobRow, ...]
    next: str | None


@page("/workflows", "Workflows", "workflows.html", QUEUE, TASK, NEXT)
async def workflows(ask: Ask) -> Workflows:
    """Jobs that wait for others."""
    _check_names(ask)
    found = await _listed(ask, "waiting")
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
    found = _seen_workflow(ask, whole)
    states: dict[str, int] = {}
    for one in found.jobs:
        states[one.state or "gone"] = states.get(one.state or "gone", 0) + 1
    waited_for = {before for one in found.jobs if one.state == "waiting" for before in one.after}
    blocking = [one for one in found.jobs if one.id in waited_for and one.state not in ("succeeded", "waiting", "")]
    return WorkflowPage(at=now(), workflow=found, states=states, blocking=tuple(blocking))


def _seen_workflow(ask: Ask, found: Workflow) -> Workflow:
    """What is not for them to see is left out."""
    jobs = [one for one in found.jobs if ask.desk.may("view", one.queue, one.task)]
    if not ask.desk.sees_fleet:
        ids = {one.id for one in jobs}
        jobs = [replace(one, after=tuple(before for before in one.after if before in ids)) for one in jobs]
    return Workflow(root=found.root, jobs=tuple(jobs), whole=found.whole and len(jobs) == len(found.jobs))


# Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Something with that name or id: what it is, and which page shows it."""

    kind: str
    name: str
    path: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was found for a text: a job, a queue, a task, an instance, a schedule; and where to look for it in errors."""

    at: datetime
    text: str
    hits: tuple[Hit, ...]


@page(
    "/search", "Search", "search.html", Param(name="q", doc="An id or a name, or a part of a name.", length=MOST_TEXT)
)
async def search(ask: Ask) -> Search:
    """Finds a job by its id, and queues, tasks, instances and schedules by a part of their name."""
    text, desk = (ask["q"] or "").strip(), ask.desk
    hits: list[Hit] = []
    if not text:
        return Search(at=now(), text="", hits=())
    if text.isprintable() and len(text) <= MAX_NAME:
        place = (await desk.reads.places([text])).get(text)
        if place is not None and desk.may("view", *place):
            hits.append(Hit(kind="job", name=text, path="/job", query={"id": text}))
    picture, part = await picture_of(ask), text.casefold()
    for queue in picture.overview.queues:
        if part in queue.queue.casefold() and desk.may("view", queue=queue.queue):
            hits.append(Hit(kind="queue", name=queue.queue, path="/queue", query={"name": queue.queue}))
    tasks = {name for one in picture.instances for name in one.task_names}
    for name in sorted(tasks):
        if part in name.casefold() and desk.may("view", task=name):
            hits.append(Hit(kind="task", name=name, path="/task", query={"name": name}))
    if desk.sees_fleet:
        for one in picture.instances:
            if part in one.label.casefold() or part in one.lease.casefold() or part in one.host.casefold():
                hits.append(
                    Hit(kind="instance", name=f"{one.label} {one.lease}", path="/instance", query={"lease": one.lease})
                )
        for limit in await desk.cached("limits", 2.0, desk.reads.limits):
            if part in limit.limit.casefold() or part in limit.key.casefold():
                hits.append(
                    Hit(
                        kind="limit",
                        name=f"{limit.limit} {limit.key}".strip(),
                        path="/limit",
                        query={"name": limit.stored},
                    )
                )
    for schedule in desk.seen(await desk.cached("schedules", 2.0, desk.reads.schedules)):
        if part in schedule.name.casefold():
            hits.append(Hit(kind="schedule", name=schedule.name, path="/schedules", query={"like": schedule.name}))
    exact = [one for one in hits if one.name == text]
    rest = [one for one in hits if one.name != text]
    return Search(at=now(), text=text, hits=tuple([*exact, *rest][:100]))


# What can't be undone is asked once more


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


# Acts on many jobs

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
    """What an act would do, before it is begun: how many jobs match (exact, or at least so many), and the first of them."""

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


# Above so many jobs the number must be typed.
UNTYPED = 100


@page("/bulk/plan", "Act on many jobs", "bulk_plan.html", *BULK_PARAMS)
async def bulk_plan(ask: Ask) -> BulkPlan:
    """How many jobs an act would be about, and the first of them; nothing is done yet."""
    which, desk, action = selection_of(ask.args), ask.desk, ask["action"]
    if which.state not in ALLOWED[action]:
        raise UsageError(f"{action} is for jobs that are {', '.join(ALLOWED[action])}; these are {which.state}")
    desk.must_many(action, which)
    allowed = None if desk.sees_fleet else lambda queue, task: desk.may(action, queue, task)
    found = await desk.reads.count(which, allowed=allowed)
    number = found.number if ask["limit"] is None else min(found.number, ask["limit"])
    group = None
    if which.group is not None:
        like = DeadFilter(queue=which.queue, task=which.task, reason=which.error, group=which.group)
        group = next(iter(grouped(desk.seen(await desk.reads.newest_dead(like, MOST_GROUPED)), now())), None)
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
    """Acts on many jobs of this process, the newest first."""

    at: datetime
    rows: tuple[BulkReport, ...]


@page("/bulk", "Acts on many jobs", "bulk.html")
async def bulk(ask: Ask) -> BulkList:
    """Acts on many jobs: what runs, and how far it is."""
    return BulkList(at=now(), rows=tuple(ask.bulks.list(ask.desk)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPage:
    """One act on many jobs."""

    at: datetime
    bulk: BulkReport
    can_stop: bool


@page("/bulk/act", "Act on many jobs", "bulk_act.html", Param(name="id", doc="The act.", needed=True))
async def bulk_act(ask: Ask) -> BulkPage:
    """One act on many jobs: how far it has got, and what was left alone."""
    found = ask.bulks.get(ask.desk, ask["id"])
    can_stop = found.state == "running" and ask.desk.may("stop", found.which.queue or "", found.which.task or "")
    return BulkPage(at=now(), bulk=found, can_stop=can_stop)
