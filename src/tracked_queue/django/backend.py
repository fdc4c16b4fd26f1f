"""`TrackedQueueBackend`: what TASKS names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.core.checks import CheckMessage
from django.db import transaction

from ..errors import JobNotFoundError, UnreadableJobError, UsageError
from ..model.context import current
from ..model.job import Job
from ..model.task import PreparedCall
from ..worker.lanes import JobThread
from . import checks
from .api import (
    BaseTaskBackend,
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalized,
    task_enqueued,
)
from .bands import name_of, queue_of
from .declare import TrackedTask, refused
from .results import result_of
from .runs import tell
from .sites import aliases, site, site_for
from .told import Told, aware, now


class TrackedQueueBackend(BaseTaskBackend):
    """
    Django's tasks on tracked_queue: deferred, async, with priorities and results.

    Inside a transaction a task is enqueued when it commits (ENQUEUE="on_commit"), and never if it is rolled back; its id is
    known at once.

    Source: docs/how-to/django.md.
    """

    task_class = TrackedTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self.site = site_for(alias, params)

    def validate_task(self, task: Any) -> None:
        """
        Check a task where it is defined, without Redis.

        Raises:
            InvalidTask: Says what is wrong with it.
        """
        super().validate_task(task)
        if name_of(task.queue_name) != task.queue_name:
            raise InvalidTask(f"Queue '{task.queue_name}': its end stands for a priority here; choose another name.")
        self.site.app_task(task)

    def enqueue(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """
        Store a job, or have it stored when the transaction commits.

        Raises:
            InvalidTask: The task, or arguments that don't fit it.
            TypeError: An argument is no JSON.
            EnqueueUnavailableError: Redis did not answer in time.
        """
        call, result = self._prepared(task, args, kwargs)
        self._send_or_defer(call, result)
        return result

    async def aenqueue(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """See `enqueue`."""
        call, result = self._prepared(task, args, kwargs)
        if _in_borrowed_loop() or self.site.mode == "outbox":
            await sync_to_async(self._send_or_defer)(call, result)
        elif not (_may_be_in_transaction() and await sync_to_async(self._deferred)(call, result)):
            (job,) = await self.site.app.enqueue_many([call])
            self._sent(job, result)
            await tell(task_enqueued, type(self), result)
        return result

    def get_result(self, result_id: str) -> Any:
        """
        Read a job.

        Raises:
            TaskResultDoesNotExist: There is none of this id (any more), or it is not a Django task's.
            SuspiciousOperation: It names something else than a task.
        """
        try:
            info = self.site.app.job(result_id).info_sync()
        except (JobNotFoundError, UnreadableJobError, UsageError) as error:
            raise TaskResultDoesNotExist(result_id) from error
        return result_of(self.site, info)

    async def aget_result(self, result_id: str) -> Any:
        """See `get_result`."""
        if _in_borrowed_loop():
            return await sync_to_async(self.get_result)(result_id)
        try:
            info = await self.site.app.job(result_id).info()
        except (JobNotFoundError, UnreadableJobError, UsageError) as error:
            raise TaskResultDoesNotExist(result_id) from error
        return result_of(self.site, info)

    def check(self, **kwargs: Any) -> Iterable[CheckMessage]:
        """Django's system checks of this backend."""
        yield from super().check(**kwargs)
        yield from checks.of_site(self.site, {alias: site(alias) for alias in aliases()})

    def _prepared(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[PreparedCall[Any], Any]:
        self.validate_task(task)
        at = now()
        options: dict[str, Any] = {"queue": queue_of(task.queue_name, task.priority), "headers": Told.headers(task, at)}
        if task.run_after is not None:
            options["at"] = aware(task.run_after)
        positional, named = normalized(list(args)), normalized(dict(kwargs))
        try:
            call = self.site.app_task(task).options(**options).call(*positional, **named)
        except UsageError as error:
            raise refused(task, error) from error
        result = TaskResult(
            task=task, id=call.request.id, status=TaskResultStatus.READY, enqueued_at=at, started_at=None, finished_at=None,
            last_attempted_at=None, args=positional, kwargs=named, backend=self.alias, errors=[], worker_ids=[],
        )  # fmt: skip
        return call, result

    def _deferred(self, call: PreparedCall[Any], result: Any) -> bool:
        """Whether it waits for a transaction of this thread."""
        site = self.site
        if site.mode == "now" or not transaction.get_connection(site.database).in_atomic_block:
            return False
        transaction.on_commit(partial(self._send, call, result), using=site.database)
        return True

    def _send_or_defer(self, call: PreparedCall[Any], result: Any) -> None:
        site = self.site
        if site.outbox is not None:
            site.outbox.enqueue_sync(transaction.get_connection(site.database), call)
            transaction.on_commit(partial(self._tell, result), using=site.database)
        elif not self._deferred(call, result):
            self._send(call, result)

    def _send(self, call: PreparedCall[Any], result: Any) -> None:
        (job,) = self.site.app.enqueue_many_sync([call])
        self._sent(job, result)
        self._tell(result)

    def _tell(self, result: Any) -> None:
        task_enqueued.send(sender=type(self), task_result=result)

    def _sent(self, job: Job[Any], result: Any) -> None:
        if job.id != result.id:  # of a unique task: the job that was there before
            object.__setattr__(result, "id", job.id)


def _may_be_in_transaction() -> bool:
    """A job that has not used its thread yet has no connection, and to look would take the thread until the job's end."""
    job = current.get()
    return job is None or not isinstance(job.thread, JobThread) or job.thread.used


def _in_borrowed_loop() -> bool:
    """
    Whether `async_to_sync` made this event loop, for one call: an async view under WSGI, for example. Connections that are
    opened in it would be left behind.
    """
    return asyncio.get_running_loop() in getattr(AsyncToSync, "loop_thread_executors", {})
