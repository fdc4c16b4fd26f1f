"""A Django task as a task of the app: the function around its function, with Django's result, context and signals."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

from ..model.context import CurrentJob, current
from ..model.task import Task as AppTask
from ..worker.isolated import About, about
from ..worker.outcome import is_last
from .api import (
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    log_task_enqueued,
    log_task_finished,
    log_task_started,
    normalized,
    task_backends,
    task_finished,
    task_started,
)
from .bands import name_of
from .declare import signature_of
from .told import Told, now

_ONLY_LOG = (log_task_enqueued, log_task_started, log_task_finished)


class Runner:
    """Runs one Django task; `task` is replaced when its module is loaded anew."""

    def __init__(self, alias: str, task: Any) -> None:
        self.alias, self.task = alias, task
        self.app_task: AppTask[..., Any] | None = None
        self.options: dict[str, Any] = {}

    def function(self) -> Callable[..., Any]:
        """What the app registers: the same name and parameters, and plain JSON in and out."""
        if inspect.iscoroutinefunction(self.task.func):

            async def arun(*args: Any, **kwargs: Any) -> Any:
                return await _Run(self, args, kwargs).acarry_out()

            made: Any = arun
        else:

            def run(*args: Any, **kwargs: Any) -> Any:
                return _Run(self, args, kwargs).carry_out()

            made = run
        original = self.task.func
        made.__module__, made.__name__, made.__qualname__ = (
            original.__module__,
            original.__name__,
            original.__qualname__,
        )
        made.__doc__, made.__annotations__ = original.__doc__, {}
        made.__signature__ = signature_of(self.task)
        return made


class _Run:
    """One run, from the signal of its start to that of its end."""

    def __init__(self, runner: Runner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._runner, self._task, self._job = runner, runner.task, current.get() or about.get()
        self._sender = type(task_backends[runner.alias])
        self.result = _running(runner, self._job, args, kwargs)
        self._args = (TaskContext(task_result=self.result), *args) if self._task.takes_context else args
        self._kwargs = kwargs

    def carry_out(self) -> Any:
        """Of a plain function, in the job's thread."""
        task_started.send(sender=self._sender, task_result=self.result)
        try:
            value = normalized(self._task.func(*self._args, **self._kwargs))
        except BaseException as error:
            if self._failed(error):
                task_finished.send(sender=self._sender, task_result=self.result)
            raise
        self._succeeded(value)
        task_finished.send(sender=self._sender, task_result=self.result)
        return value

    async def acarry_out(self) -> Any:
        """Of an `async def`, in the event loop."""
        await tell(task_started, self._sender, self.result)
        try:
            value = normalized(await self._task.func(*self._args, **self._kwargs))
        except BaseException as error:
            if self._failed(error):
                await tell(task_finished, self._sender, self.result)
            raise
        self._succeeded(value)
        await tell(task_finished, self._sender, self.result)
        return value

    def _succeeded(self, value: Any) -> None:
        _set(self.result, status=TaskResultStatus.SUCCESSFUL, finished_at=now(), _return_value=value)

    def _failed(self, error: BaseException) -> bool:
        """Whether the task has failed with this error: it is told once, and not for a run after which another comes."""
        app_task = self._runner.app_task
        assert app_task is not None
        if self._job is not None and not is_last(error, self._job, app_task.task_options):
            return False
        self.result.errors.append(error_of(error))
        _set(self.result, status=TaskResultStatus.FAILED, finished_at=now())
        return True


def error_of(error: BaseException) -> Any:
    """An exception as Django keeps it."""
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    return TaskError(exception_class_path=path, traceback="".join(traceback.format_exception(error)))


def _set(result: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(result, name, value)  # Django's own way with this frozen class


def _running(runner: Runner, job: CurrentJob | About | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result as the task sees it while it runs."""
    told = Told({} if job is None else job.headers)
    task = runner.task if job is None else told.task(runner.task, name_of(job.queue))
    started_at = now()
    return TaskResult(
        task=task,
        id="" if job is None else job.id,
        status=TaskResultStatus.RUNNING,
        enqueued_at=told.enqueued_at,
        started_at=started_at,
        last_attempted_at=started_at,
        finished_at=None,
        args=list(args),
        kwargs=kwargs,
        backend=runner.alias,
        errors=[],
        worker_ids=[] if job is None else [job.lease] * job.attempt,
    )


async def tell(signal: Any, sender: Any, result: Any) -> None:
    """
    Send a signal in an event loop. Django's own receiver only logs, and where nothing else listens it is called
    here: any other plain function is called in a thread, of which a worker has fewer than jobs.
    """
    listeners, waiting = signal._live_receivers(sender)
    if not waiting and all(listener in _ONLY_LOG for listener in listeners):
        signal.send(sender=sender, task_result=result)
    else:
        await signal.asend(sender=sender, task_result=result)
