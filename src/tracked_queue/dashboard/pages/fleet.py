"""Home, queues, tasks, instances, limits, audit and doctor: what concerns the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ...errors import NotVisibleError
from ...model.constraints import limit_shown
from ...operator.doctor import Finding
from ...operator.explanation import Explanation, plural, seconds
from ...operator.picture import Picture
from ...operator.viewer import TaskReport
from ...reports.dead import DeadFilter, DeadGroup, grouped
from ...reports.instances import ActiveJob, InstanceReport, one_each
from ...reports.limits import Holder, LimitReport
from ...reports.listing import JobRow
from ...reports.memory import Act, RecoveryReport
from ...reports.minutes import Minute
from ...reports.queues import QueueReport
from ...reports.times import Histogram
from ...settings import setting_doc, setting_names
from .page import FROM, ROWS, Ask, Param, now, page

HOUR = 60
# How a loss was known, as people read it.
CAUSES = {
    "lost": "its lease ran out",
    "died": "its process died",
    "container": "its process died, and others with it",
    "outage": "Redis or the fleet was away",
    "interrupted": "it was ended on purpose",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The last minutes, counted since 1970, of the whole fleet or a queue; None where nothing was timed."""

    minutes: tuple[int, ...] = ()
    enqueued: tuple[int, ...] = ()
    succeeded: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    wait_p50: tuple[float | None, ...] = ()
    wait_p95: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """An instance that started: a deployment, or a restart."""

    at: datetime
    label: str
    version: str


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


async def picture_of(ask: Ask) -> Picture:
    """The shared picture of this namespace."""
    return await ask.desk.cached("picture", 1.0, lambda: ask.desk.reads.picture(fresh=True))


async def minutes_of(ask: Ask) -> list[Minute]:
    """The last hour, read once for all."""
    desk = ask.desk
    return await desk.cached("minutes", 5.0, lambda: ask.minutes.last(desk.namespace, HOUR, desk.reads.minutes))


def starts_of(picture: Picture) -> tuple[Start, ...]:
    """Which live instances started in the last hour, the oldest first."""
    found = [
        Start(at=one.started_at, label=one.label, version=one.version)
        for one in one_each(picture.instances)
        if one.alive and one.started_at is not None and (picture.at - one.started_at).total_seconds() < HOUR * 60
    ]
    return tuple(sorted(found, key=lambda one: one.at))[-100:]


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


def series_of(minutes: Sequence[Minute], queues: set[str] | None = None) -> Series:
    """A chart's numbers, of these queues or of all. Waits are of the whole fleet, so there are none for some queues."""

    def total(counts: Mapping[str, int]) -> int:
        return sum(counts.values()) if queues is None else sum(counts.get(name, 0) for name in queues)

    return Series(
        minutes=tuple(one.at for one in minutes),
        enqueued=tuple(total(one.enqueued) for one in minutes),
        succeeded=tuple(total(one.succeeded) for one in minutes),
        failed=tuple(total(one.failed) for one in minutes),
        wait_p50=tuple(one.waits.quantile(0.5) for one in minutes) if queues is None else (),
        wait_p95=tuple(one.waits.quantile(0.95) for one in minutes) if queues is None else (),
    )


# Queues


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


# Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task, and how long half, 95 and 99 of 100 of its runs took, in seconds."""

    task: str
    instances: int
    runs: int
    p50: float | None
    p95: float | None
    p99: float | None
    parked: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """A part of the tasks, and how many match."""

    at: datetime
    rows: tuple[TaskRow, ...]
    matching: int
    next: int | None
    minutes: int
    starts: tuple[Start, ...]


def _task_row(one: TaskReport) -> TaskRow:
    return TaskRow(
        task=one.task,
        instances=one.instances,
        runs=one.runs.total,
        p50=one.runs.quantile(0.5),
        p95=one.runs.quantile(0.95),
        p99=one.runs.quantile(0.99),
        parked=one.parked,
        paused=one.paused,
    )


_MINUTES = Param(name="minutes", doc="Of how many minutes the runs are.", default=60, least=1, most=72 * 60)


async def _tasks(ask: Ask) -> list[TaskReport]:
    minutes = ask["minutes"]
    found = await ask.desk.cached(("tasks", minutes), 5.0, lambda: ask.desk.reads.tasks(minutes))
    return [one for one in found if ask.desk.may("view", task=one.task)]


@page(
    "/tasks", "Tasks", "tasks.html", Param(name="like", doc="Only tasks with this in their name."), _MINUTES, FROM
)  # fmt: skip
async def tasks(ask: Ask) -> Tasks:
    """Tasks: how often they ran, and how long that took."""
    like, first = (ask["like"] or "").casefold(), ask["from"]
    found = [one for one in await _tasks(ask) if like in one.task.casefold()]
    found.sort(key=lambda one: (not one.parked, -one.runs.total, one.task))
    picture = await picture_of(ask)
    return Tasks(
        at=picture.at,
        rows=tuple(_task_row(one) for one in found[first : first + ROWS]),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
        minutes=ask["minutes"],
        starts=starts_of(picture) if ask.desk.sees_fleet else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One task: whether the fleet knows it, how long its runs took by bucket, and what it died of."""

    at: datetime
    row: TaskRow
    runs: Histogram
    explanation: Explanation
    instances: tuple[str, ...]
    dead: tuple[DeadGroup, ...]


@page("/task", "Task", "task.html", Param(name="name", doc="The task.", needed=True), _MINUTES)
async def task(ask: Ask) -> TaskPage:
    """One task: how long its runs take, and what its jobs die of."""
    desk, name = ask.desk, ask["name"]
    desk.must_see(task=name)
    found = next((one for one in await _tasks(ask) if one.task == name), None)
    if found is None:
        raise NotVisibleError(f"there is no task {name}")
    picture = await picture_of(ask)
    knows = sorted({one.label for one in picture.instances if one.alive and name in one.task_names})
    groups = await dead_groups(ask, DeadFilter(task=name), 1000)
    return TaskPage(
        at=picture.at,
        row=_task_row(found),
        runs=found.runs,
        explanation=desk.explained(await desk.cached(("task", name), 1.0, lambda: desk.reads.explain(task=name)))[0],
        instances=tuple(knows)[:50] if desk.sees_fleet else (),
        dead=tuple(groups[:20]),
    )


async def dead_groups(ask: Ask, which: DeadFilter, look_at: int) -> list[DeadGroup]:
    """Dead jobs that they may see in groups, of about so many of the newest."""
    desk = ask.desk
    found = await desk.cached(("dead", which, look_at), 3.0, lambda: desk.reads.newest_dead(which, look_at))
    return grouped(desk.seen(found), now())


# Instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Lost instances with the jobs that they own, and a part of the live ones; versions of the live ones, if they differ."""

    at: datetime
    lost: tuple[InstanceReport, ...]
    rows: tuple[InstanceReport, ...]
    matching: int
    next: int | None
    versions: Mapping[str, int] = field(default_factory=dict)


@page(
    "/instances", "Instances", "instances.html", Param(name="like", doc="Only with this in label, host or lease."), FROM
)
async def instances(ask: Ask) -> Instances:
    """Instances: which are there, what they own, and which are gone."""
    ask.desk.must_see_fleet()
    picture, like, first = await picture_of(ask), (ask["like"] or "").casefold(), ask["from"]
    live = [
        one
        for one in picture.instances
        if one.alive and any(like in text.casefold() for text in (one.label, one.host, one.lease))
    ]
    live.sort(key=lambda one: (one.label, one.lease))
    versions = Counter(one.version for one in one_each(picture.instances) if one.alive)
    return Instances(
        at=picture.at,
        lost=tuple(one for one in picture.instances if not one.alive)[:ROWS],
        rows=tuple(live[first : first + ROWS]),
        matching=len(live),
        next=first + ROWS if len(live) > first + ROWS else None,
        versions=dict(versions),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePage:
    """One instance: what it is and how it stands, and the jobs that it owns, the oldest first."""

    at: datetime
    instance: InstanceReport
    explanation: Explanation
    active: tuple[ActiveJob, ...]


@page("/instance", "Instance", "instance.html", Param(name="lease", doc="Its lease.", needed=True))
async def instance(ask: Ask) -> InstancePage:
    """One instance, and the jobs that it owns."""
    desk = ask.desk
    desk.must_see_fleet()
    picture = await picture_of(ask)
    found = next((one for one in picture.instances if one.lease == ask["lease"]), None)
    if found is None:
        raise NotVisibleError(f"there is no instance {ask['lease']}: it has stopped, or its jobs were recovered")
    report = found
    return InstancePage(
        at=picture.at,
        instance=report,
        explanation=(
            await desk.cached(("instance", report.lease), 1.0, lambda: desk.reads.explain(instance=report.lease))
        )[0],
        active=tuple(await desk.cached(("active", report.lease), 1.0, lambda: desk.reads.active(report, limit=250))),
    )


# Limits, audit, doctor


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits, those that hold something back first."""

    at: datetime
    rows: tuple[LimitReport, ...]
    matching: int
    next: int | None


@page("/limits", "Limits", "limits.html", FROM)
async def limits(ask: Ask) -> Limits:
    """Limits: how many places are taken, and what waits for one."""
    desk, first = ask.desk, ask["from"]
    desk.must_see_fleet()
    found = await desk.cached("limits", 2.0, desk.reads.limits)
    return Limits(
        at=now(),
        rows=tuple(found[first : first + ROWS]),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPage:
    """
    One limit: how it stands in each shard, and at most 100 of those who hold its places; `leaked` ones do not run.
    """

    at: datetime
    name: str
    shown: str
    explanations: tuple[Explanation, ...]
    holders: tuple[Holder, ...]


@page(
    "/limit",
    "Limit",
    "limit.html",
    Param(name="name", doc="As it is stored, or its task's or queue's.", needed=True, length=1000),
)
async def limit(ask: Ask) -> LimitPage:
    """One limit, and who holds its places."""
    desk, name = ask.desk, ask["name"]
    desk.must_see_fleet()
    return LimitPage(
        at=now(),
        name=name,
        shown=limit_shown(name) or name,
        explanations=tuple(await desk.cached(("limit", name), 1.0, lambda: desk.reads.explain(limit=name))),
        holders=tuple(await desk.cached(("holders", name), 1.0, lambda: desk.reads.holders(name))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What operators did and what was recovered, the newest first."""

    at: datetime
    acts: tuple[Act, ...]
    recoveries: tuple[RecoveryReport, ...]


@page("/audit", "Audit", "audit.html", Param(name="by", doc="Only acts of this person or program."))
async def audit(ask: Ask) -> Audit:
    """What operators did, and what was recovered."""
    desk = ask.desk
    desk.must_see_fleet()
    acts = await desk.cached("acts", 1.0, lambda: desk.reads.acts(500))
    return Audit(
        at=now(),
        acts=tuple(one for one in acts if ask["by"] in (None, one.by))[:200],
        recoveries=tuple((await desk.cached("recoveries", 1.0, lambda: desk.reads.recoveries(200)))[:100]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting: its value here, where that came from, and what it means."""

    name: str
    value: str
    source: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Whether servers and settings keep the promise, and the settings of this dashboard."""

    at: datetime
    findings: tuple[Finding, ...]
    settings: tuple[SettingRow, ...]
    shards: int
    versions: Mapping[str, int] = field(default_factory=dict)


@page("/doctor", "Doctor", "doctor.html")
async def doctor(ask: Ask) -> Doctor:
    """Whether servers and settings keep the promise. What the scripts need is not tried here: `tracked-queue doctor` does."""
    desk = ask.desk
    desk.must_see_fleet()
    picture = await picture_of(ask)
    return Doctor(
        at=now(),
        findings=tuple(await desk.cached("doctor", 10.0, lambda: desk.reads.examine(try_scripts=False))),
        settings=tuple(
            SettingRow(
                name=name,
                value=str(desk.settings.shown(name)),
                source=desk.settings.sources.get(name, "default"),
                doc=setting_doc(name),
            )
            for name in setting_names()
        ),
        shards=desk.settings.shards,
        versions=dict(Counter(one.version for one in one_each(picture.instances) if one.alive)),
    )
