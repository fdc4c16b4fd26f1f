"""`Job`: the handle that an enqueue returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, Never, Protocol, TypeVar

from ..protocol.states import State
from ..settings import Seconds
from .record import JobInfo, Progress

R_co = TypeVar("R_co", covariant=True)


class JobReader(Protocol):
    """What a handle needs of its app."""

    async def job_info(self, job_id: str, codec: Any) -> JobInfo: ...

    def job_info_sync(self, job_id: str, codec: Any) -> JobInfo: ...

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any: ...

    def job_result_sync(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any: ...

    async def job_cancel(self, job_id: str) -> bool: ...

    def job_cancel_sync(self, job_id: str) -> bool: ...

    async def job_states(self, job_ids: Sequence[str]) -> list[State | None]: ...

    def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]: ...


class Job(Generic[R_co]):
    """
    One stored job.

    `created` is False when a job of this id existed already: nothing was added, and this handle is to that job.
    `durability` is what the enqueue waited for and reached: memory, replica or fsync.
    """

    __slots__ = ("_codec", "_reader", "created", "durability", "id")

    def __init__(
        self, id: str, created: bool, reader: JobReader, codec: Any = None, durability: str = "memory"
    ) -> None:
        self.id, self.created, self.durability = id, created, durability
        self._reader, self._codec = reader, codec

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    # Two handles to one job of one app are equal, whatever either knows of the enqueue.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.id, self._reader) == (other.id, other._reader)

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> Job[R_co]:
        return self

    def __deepcopy__(self, _memo: Any) -> Job[R_co]:
        return self

    def __reduce__(self) -> Never:
        raise TypeError(
            f"the handle of job {self.id} can't be pickled: send its id, and make another one with app.job(id)"
        )

    async def status(self) -> State:
        """The job's state now. Raises JobNotFoundError when its record is not there (any more)."""
        return (await self.info()).state

    async def info(self) -> JobInfo:
        """The job's record: state, ledgers, times, error. Raises JobNotFoundError."""
        return await self._reader.job_info(self.id, self._codec)

    def info_sync(self) -> JobInfo:
        """`info` for code without an event loop: safe in threads and after a fork."""
        return self._reader.job_info_sync(self.id, self._codec)

    async def states_of(self, jobs: Sequence[Job[Any]]) -> list[State | None]:
        """The states of several jobs of this app, read in pages; None for one without a record."""
        return await self._reader.job_states([job.id for job in jobs])

    async def progress(self) -> Progress | None:
        """How far the job said it is; None if it said nothing. Raises JobNotFoundError."""
        return (await self.info()).progress

    def watch(self) -> AsyncIterator[JobInfo]:
        """
        The job's record now, and again after each change, until the job has ended: `async for info in job.watch()`.

        Progress, log lines and the end are pushed by the server; other changes of the state are seen within a second.
        """
        return self._reader.job_watch(self.id, self._codec)

    async def result(self, timeout: Seconds | None = None) -> R_co:
        """
        Wait for the function's return value; the server announces the job's end.

        A handle that was made from an id alone (`app.job(id)`) decodes it by the result type of the record's task; it
        is plain data if that task is not registered here.

        Args:
            timeout: Seconds (or a timedelta) to wait; None waits without end, through outages of Redis too.

        Raises:
            JobFailedError: It ended failed, dead or expired; carries the remote traceback's text.
            JobCancelledError: It was cancelled.
            JobNotFoundError: No record: never stored, expired, or untracked and fetched.
            ResultLeftOutError: It succeeded, and Redis was too full for its result.
            UnreadableResultError: It does not fit the type that is expected here.
            TimeoutError: It has not ended in time; the job goes on.
        """
        result: R_co = await self._reader.job_result(self.id, self._codec, timeout)
        return result

    def result_sync(self, timeout: Seconds | None = None) -> R_co:
        """`result` for code without an event loop. It asks the server every half second at most, and blocks its thread."""
        result: R_co = self._reader.job_result_sync(self.id, self._codec, timeout)
        return result

    async def cancel(self) -> bool:
        """
        Cancel the job: at once if it has not started, else within a second by cancelling its asyncio task.

        Returns:
            False when there was nothing to cancel: it had ended, or there is no record.
        """
        return await self._reader.job_cancel(self.id)

    def cancel_sync(self) -> bool:
        """`cancel` for code without an event loop."""
        return self._reader.job_cancel_sync(self.id)
