"""Handles of jobs that are in no Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..errors import JobCancelledError, JobFailedError, UsageError
from ..model.hooks import run_now
from ..model.record import JobInfo
from ..protocol.states import State
from ..settings import Seconds


class SyncToo:
    """The calls of a reader that need no event loop: none of these readers waits for anything."""

    def job_info_sync(self: Any, job_id: str, codec: Any) -> JobInfo:
        """See Job.info_sync."""
        found: JobInfo = run_now(self.job_info(job_id, codec))
        return found

    def job_result_sync(self: Any, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See Job.result_sync."""
        return run_now(self.job_result(job_id, codec, timeout))

    def job_cancel_sync(self: Any, job_id: str) -> bool:
        """See Job.cancel_sync."""
        return bool(run_now(self.job_cancel(job_id)))


class Faked(SyncToo):
    """The handle of an enqueue that was only recorded: nothing is known of it."""

    async def _refuse(self, job_id: str) -> Any:
        raise UsageError(f"job {job_id} was recorded by fake() and not stored, so nothing is known of it")

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        """See Job.info."""
        found: JobInfo = await self._refuse(job_id)
        return found

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See Job.result."""
        return await self._refuse(job_id)

    async def job_cancel(self, job_id: str) -> bool:
        """See Job.cancel."""
        return bool(await self._refuse(job_id))

    async def job_states(self, job_ids: Any) -> list[State | None]:
        """See Job.states_of."""
        return list(await self._refuse(", ".join(job_ids)))

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        """See Job.watch."""
        yield await self._refuse(job_id)


class Done(SyncToo):
    """Reads the outcome of a job that has run inline."""

    def __init__(self, result: Any) -> None:
        self._result = result

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        """See Job.info."""
        raise UsageError("an inline job has no record; ask for its result")

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See Job.result."""
        return self._result

    async def job_cancel(self, job_id: str) -> bool:
        """See Job.cancel."""
        return False

    async def job_states(self, job_ids: Any) -> list[State | None]:
        """See Job.states_of."""
        return [State.SUCCEEDED for _ in job_ids]

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        """See Job.watch."""
        yield await self.job_info(job_id, codec)


class Failed(Done):
    """A job that ended without success because of what it raised."""

    def __init__(self, error: JobFailedError) -> None:
        super().__init__(None)
        self._error = error

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See Job.result."""
        raise self._error

    async def job_states(self, job_ids: Any) -> list[State | None]:
        """See Job.states_of."""
        return [State(self._error.state) for _ in job_ids]


class NotNeeded(Done):
    """A fallback that was cancelled, since everything before it succeeded."""

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See Job.result."""
        raise JobCancelledError(job_id)
