"""The record of a job as Django's TaskResult."""

from __future__ import annotations

import builtins
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.utils.module_loading import import_string

import tracked_queue

from ..model.record import ErrorInfo, JobInfo
from ..protocol.states import State
from .api import Task, TaskError, TaskResult, TaskResultDoesNotExist, TaskResultStatus
from .bands import name_of
from .sites import Site
from .told import Told, as_django

_STATUSES = {
    State.SCHEDULED: TaskResultStatus.READY,
    State.QUEUED: TaskResultStatus.READY,
    State.PARKED: TaskResultStatus.READY,
    State.WAITING: TaskResultStatus.READY,
    State.ACTIVE: TaskResultStatus.RUNNING,
    State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
    State.EXPIRED: TaskResultStatus.FAILED,
    State.DEAD: TaskResultStatus.FAILED,
}
# What the worker itself says of a run, and the class that stands for it.
_OURS = {"ResultError": "builtins.TypeError"}
_NOT_STARTED = (State.SCHEDULED, State.QUEUED, State.PARKED, State.WAITING)


def task_of(site: Site, path: str) -> Any:
    """
    The Django task that a record names. Nothing else is run or returned, whatever Redis holds.

    Raises:
        TaskResultDoesNotExist: There is no such task here.
        SuspiciousOperation: There is something else of that name.
    """
    known = site.task_called(path)
    if known is not None:
        return known
    if site.app.tasks.get(path) is not None:
        raise TaskResultDoesNotExist(f"{path} is a task of the app and not of django.tasks: use queue().job(id)")
    try:
        found = import_string(path)
    except ImportError as error:
        raise TaskResultDoesNotExist(f"its task {path} can't be imported: {error}") from error
    if not isinstance(found, Task):
        raise SuspiciousOperation(f"a job names the task {path}, which is a {type(found).__qualname__}")
    return found


def result_of(site: Site, info: JobInfo) -> Any:
    """
    A job's record as a TaskResult.

    Raises:
        TaskResultDoesNotExist, SuspiciousOperation: See `task_of`.
    """
    task = task_of(site, info.task)
    told = Told(info.headers)
    begun = info.attempts > 0 or info.state not in _NOT_STARTED
    last = as_django(info.started_at or info.fetched_at) if begun else None
    runs = [event.started_at for event in info.history if event.started_at is not None]
    result = TaskResult(
        task=told.task(task, name_of(info.queue)),
        id=info.id,
        status=_STATUSES[info.state],
        enqueued_at=told.enqueued_at or as_django(info.queued_at),
        started_at=as_django(min(runs)) if runs else last,
        last_attempted_at=last,
        finished_at=as_django(info.finished_at) if info.state.ended else None,
        args=list(info.args or ()),
        kwargs=dict(info.kwargs or {}),
        backend=site.alias,
        errors=_errors(info),
        worker_ids=_workers(info),
    )
    object.__setattr__(result, "_return_value", info.result)
    return result


def _errors(info: JobInfo) -> list[Any]:
    errors = [_error(failure) for failure in info.failures]
    if errors or not info.state.ended or info.state is State.SUCCEEDED:
        return errors
    if info.error is not None:
        return [_error(info.error)]
    kind = "JobCancelledError" if info.state is State.CANCELLED else "JobFailedError"
    why = info.reason or info.state.value
    return [TaskError(exception_class_path=f"tracked_queue.{kind}", traceback=f"tracked_queue.{kind}: {why}")]


def _error(error: ErrorInfo) -> Any:
    kind = _OURS.get(error.type, error.type)
    if "." not in kind:  # the worker's own words are classes of ours
        where = "builtins" if hasattr(builtins, kind) else "tracked_queue"
        kind = (
            f"{where}.{kind}" if where == "builtins" or hasattr(tracked_queue, kind) else "tracked_queue.JobFailedError"
        )
    text = error.traceback or f"{error.type}: {error.message}"
    return TaskError(exception_class_path=kind, traceback=text)


def _workers(info: JobInfo) -> list[str]:
    """The lease of each run, as far as it is known: failures are kept with theirs, the last five."""
    known = [failure.lease for failure in info.failures]
    if info.lease and len(known) < info.attempts:
        known.append(info.lease)
    unknown = [known[0] if known else "unknown"] * (info.attempts - len(known))
    return [*unknown, *known][: info.attempts]
