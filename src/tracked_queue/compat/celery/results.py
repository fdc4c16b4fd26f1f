"""`AsyncResult` and `GroupResult`: Celery's view of jobs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from ...errors import JobCancelledError, JobFailedError, JobNotFoundError, UsageError
from ...model.job import Job
from ...model.record import JobInfo
from ...protocol.states import State
from ...settings import Seconds
from .values import typed

R = TypeVar("R")

_STATES = {
    State.SUCCEEDED: "SUCCESS", State.FAILED: "FAILURE", State.DEAD: "FAILURE", State.CANCELLED: "REVOKED",
    State.EXPIRED: "REVOKED", State.ACTIVE: "STARTED",
}  # fmt: skip


class AsyncResult(Generic[R]):
    """
    A job. What asks Redis blocks its thread; in an event loop use `aget`, or `job` and its methods.

    Args:
        job: Its id, of the first `Celery` of this process; or a job of the queue, `queue.job(id)`.

    Raises:
        UsageError: Neither, or there is no `Celery` yet.
    """

    def __init__(self, job: Job[Any] | str) -> None:
        if isinstance(job, str):
            from .app import current_app

            job = current_app.queue.job(job)
        if not isinstance(job, Job):
            raise UsageError(f"AsyncResult({job!r}): give a job's id")
        self.job: Job[Any] = job

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.job == other.job

    def __hash__(self) -> int:
        return hash(self.job)

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    task_id = id

    @property
    def state(self) -> str:
        """PENDING (also for a job that is not known), STARTED, RETRY, SUCCESS, FAILURE or REVOKED (also: expired)."""
        info = self._info()
        if info is None:
            return "PENDING"
        if info.state is State.ACTIVE and (told := _told(info)):
            return str(told.get("state", "STARTED"))
        return _STATES.get(info.state, "RETRY" if info.failures else "PENDING")

    status = state

    @property
    def result(self) -> Any:
        """The return value; the error of a job that failed; before that, what `update_state` said; else None."""
        info = self._info()
        if info is None:
            return None
        if info.state is State.SUCCEEDED:
            return typed(info.result)
        if info.progress is not None and not info.state.ended:
            told = _told(info).get("meta")
            return {"current": info.progress.done, "total": info.progress.total} if told is None else told
        try:
            return self.get(0) if info.state.ended else None
        except (JobFailedError, JobCancelledError) as error:
            return error

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a job that failed, as text."""
        info = self._info()
        return None if info is None or info.error is None else info.error.traceback

    def ready(self) -> bool:
        """Whether the job has ended."""
        info = self._info()
        return info is not None and info.state.ended

    def successful(self) -> bool:
        """Whether it has ended with success."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether it has failed for good."""
        return self.state == "FAILURE"

    def get(self, timeout: Seconds | None = None, propagate: bool = True, **_: Any) -> Any:
        """
        Wait for the return value. Celery's other arguments (`interval`, `disable_sync_subtasks`, ...) change nothing here.

        Args:
            timeout: Seconds; None waits without end.
            propagate: False returns the error in place of raising it.

        Raises:
            JobFailedError: It failed; `error_type`, `error_message` and `traceback` are the task's error.
            JobCancelledError, JobNotFoundError, TimeoutError: See `Job.result`.
        """
        try:
            return typed(self.job.result_sync(timeout))
        except (JobFailedError, JobCancelledError) as error:
            if propagate:
                raise
            return error

    wait = get

    async def aget(self, timeout: Seconds | None = None) -> Any:
        """`get` in an event loop."""
        return typed(await self.job.result(timeout))

    def revoke(self, terminate: bool = False, **_: Any) -> None:
        """Cancel the job. One that runs is cancelled only with `terminate`, as in Celery."""
        info = None if terminate else self._info()
        if info is not None and info.state is State.ACTIVE:
            return
        self.job.cancel_sync()

    def _info(self) -> JobInfo | None:
        try:
            return self.job.info_sync()
        except JobNotFoundError:
            return None


def _told(info: JobInfo) -> dict[str, Any]:
    """What `update_state` has said."""
    with contextlib.suppress(ValueError):
        told = json.loads(info.progress.note) if info.progress is not None else None
        return told if isinstance(told, dict) else {}
    return {}


class GroupResult:
    """The jobs of a group, in its order."""

    def __init__(self, results: Sequence[AsyncResult[Any]]) -> None:
        self.results = list(results)

    def __iter__(self) -> Iterator[AsyncResult[Any]]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, at: int) -> AsyncResult[Any]:
        return self.results[at]

    def __repr__(self) -> str:
        return f"<GroupResult of {len(self)}>"

    def get(self, timeout: float | None = None, propagate: bool = True, **_: Any) -> list[Any]:
        """All return values; `timeout` is for all of them together."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return [
            one.get(None if deadline is None else max(0.0, deadline - time.monotonic()), propagate)
            for one in self.results
        ]

    join = get

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(one.ready() for one in self.results)

    def successful(self) -> bool:
        """Whether all have ended with success."""
        return all(one.successful() for one in self.results)

    def failed(self) -> bool:
        """Whether one has failed."""
        return any(one.failed() for one in self.results)

    def completed_count(self) -> int:
        """How many have ended with success."""
        return sum(one.successful() for one in self.results)

    def revoke(self, terminate: bool = False, **_: Any) -> None:
        """Cancel all of them."""
        for one in self.results:
            one.revoke(terminate)
