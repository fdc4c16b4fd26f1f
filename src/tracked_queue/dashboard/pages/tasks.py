"""Tasks, and one task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...errors import NotVisibleError
from ...operator.explanation import Explanation
from ...operator.viewer import TaskReport
from ...reports.dead import DeadFilter, DeadGroup
from ...reports.times import Histogram
from .common import Start, dead_groups, picture_of, starts_of
from .page import FROM, ROWS, Ask, Param, page


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
