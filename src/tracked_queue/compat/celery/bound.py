"""What a task with `bind=True` gets as its first argument: the request, and `retry`."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Never

import anyio.from_thread

from ...errors import MaxRetriesExceededError, UsageError
from ...model.codec import MAX_MESSAGE
from ...model.context import CurrentJob
from ...model.retry import Retry
from ...settings import Seconds
from ...worker.isolated import About
from .options import in_utc

if TYPE_CHECKING:
    from .tasks import CeleryTask


class Request:
    """
    What `self.request` knows. Outside of a worker, where a task is called as a function, it has the arguments only.

    Args:
        job: The job that runs; None in a direct call.
    """

    def __init__(
        self, job: CurrentJob | About | None, task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._job, self.task, self.args, self.kwargs = job, task, args, kwargs

    def __repr__(self) -> str:
        return f"<Request {self.id} of {self.task}>"

    @property
    def called_directly(self) -> bool:
        """Whether the task was called as a function."""
        return self._job is None

    @property
    def id(self) -> str | None:
        """The job's id."""
        return None if self._job is None else self._job.id

    @property
    def retries(self) -> int:
        """How many runs there were before this one, recoveries not counted."""
        return 0 if self._job is None else self._job.attempt - 1

    @property
    def headers(self) -> Mapping[str, Any]:
        """What the enqueue sent along."""
        return {} if self._job is None else self._job.headers

    @property
    def hostname(self) -> str | None:
        """The lease of the instance that runs it."""
        return None if self._job is None else self._job.lease

    @property
    def delivery_info(self) -> dict[str, Any]:
        """The queue, as `routing_key`, and whether an instance was lost with this job before, as `redelivered`."""
        if self._job is None:
            return {}
        recoveries = getattr(self._job, "recoveries", 0)  # not known in a process of isolate="process"
        return {"routing_key": self._job.queue, "exchange": "", "redelivered": recoveries > 0}

    @property
    def is_eager(self) -> bool:
        """Always False: tests run jobs by `tracked_queue.testing`."""
        return False


class BoundTask:
    """`self` of a task with `bind=True`; its other attributes are those of the task."""

    def __init__(
        self,
        task: CeleryTask[..., Any],
        job: CurrentJob | About | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._task, self._job = task, job
        self.request = Request(self._job, task.name, args, kwargs)
        # What left `retry` in the last run: the job is dead with it, and not merely failed.
        self.given_up: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # As in Celery, where the task is one object for a process: a connection may be kept there.
        if name in ("_task", "_job", "request", "given_up"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._task, name, value)

    def __repr__(self) -> str:
        return f"<BoundTask {self._task.name}>"

    @property
    def is_last(self) -> bool:
        """Whether this is the job's last run."""
        return self._job is not None and self._job.attempt >= self._job.max_attempts

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """
        Say how far the job is, from a plain `def`: `AsyncResult.state` and `.info` have it while the job runs.

        Args:
            meta: Plain data, of which at most 2,000 characters of JSON are kept, or nothing; `current` and `total` are the
                job's progress everywhere else.

        Raises:
            UsageError: This is an `async def`, which writes `await current_job().progress(...)`.
        """
        if not isinstance(self._job, CurrentJob):
            return  # called directly, or in a process of its own: nobody looks
        if task_id is not None and task_id != self.request.id:
            raise UsageError(f"update_state(task_id={task_id!r}): a job tells of itself only")
        known = dict(meta) if isinstance(meta, Mapping) else {} if meta is None else {"meta": meta}
        done, total = (known.get(name) for name in ("current", "total"))
        numbers = [
            number if isinstance(number, int | float) and math.isfinite(number) else None for number in (done, total)
        ]
        note = json.dumps({"state": state or "PROGRESS", "meta": known}, default=str)
        if len(note) > MAX_MESSAGE:  # the rest would be cut off, and be no JSON any more
            note = json.dumps({"state": state or "PROGRESS"})
        try:
            anyio.from_thread.run(self._job.progress, numbers[0] or 0, numbers[1], note)
        except RuntimeError as error:
            if "thread" not in str(error):
                raise
            raise UsageError("update_state: in an `async def` write await current_job().progress(3, 10)") from None

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime.datetime | None = None,
        countdown: Seconds | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Never:
        """
        End this run, and have the job run again: raises, as Celery's does, and never returns.

        Args:
            exc: What is raised in its place if this was the last run.
            eta, countdown: When; default: the task's `default_retry_delay`.
            max_retries: Give up after so many retries; it can lower the task's own number, not raise it.

        Raises:
            Retry: Always but in the last run.
            MaxRetriesExceededError: This was the last run, and there is no `exc`.
            TypeError: Something that can't be changed for the next run.
        """
        changed = [name for name, value in (("args", args), ("kwargs", kwargs)) if value is not None]
        changed += [*options, *([] if throw else ["throw"])]
        if changed:
            raise TypeError(f"{self._task.name}: retry({changed[0]}=...): a retry is the same job; enqueue another one")
        if self._job is None:
            raise exc or RuntimeError(f"{self._task.name}: retry() was called, and this is no job")
        done = self.request.retries
        most = self._job.max_attempts - 1 if max_retries is None else min(max_retries, self._job.max_attempts - 1)
        if done >= most:
            text = f"{self._task.name}: retries are used up ({done} of {most})"
            if max_retries is not None and max_retries > most:
                text += (
                    f"; retry(max_retries={max_retries}) can't raise it: write max_retries={max_retries} at the task"
                )
            self.given_up = exc or MaxRetriesExceededError(text)
            raise self.given_up
        if countdown is None and eta is not None:
            countdown = (in_utc(eta) - datetime.datetime.now(datetime.UTC)).total_seconds()
        after = self._task.default_retry_delay if countdown is None else countdown
        if isinstance(after, int | float):
            after = max(0.0, after)
        raise Retry(after=after, reason=f"retry: {exc!r}" if exc else "retry") from exc
