"""What a job can ask about itself while it runs, and what it can store as it goes."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from ..errors import ArgumentError, PayloadTooLargeError, UsageError
from ..protocol.transitions import NoteKind
from ..settings import Seconds
from .checks import check_text, check_whole, to_seconds
from .codec import MAX_MESSAGE, decode_any, encode_any

S = TypeVar("S")
T = TypeVar("T")


class RunningDelivery(Protocol):
    """What the runner knows of a delivery; most is worked out only when a job asks for it."""

    attempt: int
    max_attempts: int
    headers: Mapping[str, Any]
    tick_ms: int | None

    @property
    def id(self) -> str: ...

    @property
    def task_name(self) -> str: ...

    @property
    def queue(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def interruptions(self) -> int: ...

    @property
    def recoveries(self) -> int: ...

    @property
    def checkpoint(self) -> bytes: ...


class RunningOn(Protocol):
    """What a running job needs of the instance that runs it."""

    @property
    def lease(self) -> str: ...

    @property
    def state(self) -> Any: ...

    @property
    def max_payload(self) -> int: ...

    async def note(self, delivery: Any, kind: NoteKind, value: bytes) -> None: ...

    def opened(self, data: bytes, /) -> bytes: ...

    def extend(self, delivery: Any, seconds: float) -> None: ...

    def waits(self, delivery: Any, more: int) -> None: ...

    def thread(self, delivery: Any) -> Executor: ...


class CurrentJob:
    """The delivery that runs in this context."""

    __slots__ = ("_delivery", "_host", "_iterated", "_saved")

    def __init__(self, delivery: RunningDelivery, host: RunningOn) -> None:
        self._delivery, self._host = delivery, host
        self._saved: Any = None
        self._iterated = False

    def __repr__(self) -> str:
        return f"<CurrentJob {self.id} of {self.task}, attempt {self.attempt} of {self.max_attempts}>"

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt and delivery."""
        return self._delivery.id

    @property
    def lease(self) -> str:
        """The lease of the instance that runs it."""
        return self._host.lease

    @property
    def idempotency_key(self) -> str:
        """Stable over attempts and deliveries: give it to an external service, so that it does the work once."""
        return f"{self.task}:{self.id}"

    @property
    def task(self) -> str:
        """The task's name."""
        return self._delivery.task_name

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return self._delivery.queue

    @property
    def attempt(self) -> int:
        """Which run this is, from 1 to `max_attempts`."""
        return self._delivery.attempt

    @property
    def max_attempts(self) -> int:
        """How many runs there are in all."""
        return self._delivery.max_attempts

    @property
    def last_attempt(self) -> bool:
        """Whether the job is dead if this attempt raises."""
        return self.attempt >= self.max_attempts

    @property
    def interruptions(self) -> int:
        """How often a shutdown or an outage handed it back before."""
        return self._delivery.interruptions

    @property
    def recoveries(self) -> int:
        """How often its instance was lost before."""
        return self._delivery.recoveries

    @property
    def fence(self) -> int:
        """Grows with every delivery of this job: an external system that keeps the highest one can refuse an older."""
        return self._delivery.number

    @property
    def headers(self) -> Mapping[str, Any]:
        """Plain data that the enqueue sent along; for middleware."""
        return self._delivery.headers

    @property
    def state(self) -> Any:
        """What the app's lifespan yielded; None without one."""
        return self._host.state

    @property
    def thread(self) -> Executor:
        """
        A thread that is this job's alone until it ends: for blocking code whose objects belong to the thread that made them.

        `await asyncio.get_running_loop().run_in_executor(current_job().thread, function)`. It is one of the worker's `threads`,
        taken at the first use and given back when the job ends; the app's `thread_context`s are entered in it. A plain `def`
        task runs in this thread itself.
        """
        return self._host.thread(self._delivery)

    @property
    def scheduled_for(self) -> datetime | None:
        """The tick of a cron or interval schedule that this job stands for; None for any other job."""
        ms = self._delivery.tick_ms
        return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)

    def extend_timeout(self, seconds: Seconds) -> None:
        """Let this attempt run for this many seconds (or a timedelta) from now, whatever its timeout was."""
        self._host.extend(self._delivery, to_seconds("extend_timeout(seconds)", seconds, above=True))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark that the job waits for another job's result: a worker whose slots all do this is stuck, and logs it."""
        self._host.waits(self._delivery, 1)
        try:
            yield
        finally:
            self._host.waits(self._delivery, -1)

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """
        Report how far the job is; `Job.progress()` reads it and `Job.watch()` streams it.

        Raises:
            OwnershipLostError: The job belongs to another delivery; stop.
        """
        for name, value in (("done", done), ("total", total)):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number and (name == "done" or value is not None):
                raise UsageError(f"progress: {name}={value!r}: it must be a number")
        try:
            packed = encode_any([done, total, check_text("progress: note", note)[:MAX_MESSAGE]])
        except TypeError as error:
            raise UsageError(f"progress: {error}") from None
        await self._host.note(self._delivery, NoteKind.PROGRESS, packed)

    async def log(self, text: str) -> None:
        """Keep a line with the job; the last 100 stay. Raises OwnershipLostError."""
        await self._host.note(
            self._delivery, NoteKind.LOG, check_text("log: text", text)[:MAX_MESSAGE].encode("utf-8", "replace")
        )

    @property
    def saved(self) -> Any:
        """The last checkpoint of this job, even from an earlier run; None if there is none."""
        if self._saved is None:
            self._saved = decode_any(self._host.opened(self._delivery.checkpoint))
        return self._saved

    async def checkpoint(self, state: Any) -> None:
        """
        Store small plain data; after a crash, a deploy or a retry the job finds it in `saved`.

        Raises:
            OwnershipLostError: The job belongs to another delivery, so nothing was stored; stop.
            ArgumentError: It can't be stored, or would come back changed.
            PayloadTooLargeError: It takes more than `max_payload`.
        """
        try:
            packed = encode_any(state)
        except TypeError as error:
            raise ArgumentError(self.task, "checkpoint", str(error)) from None
        if len(packed) > self._host.max_payload:
            raise PayloadTooLargeError(self.task, len(packed), self._host.max_payload)
        await self._host.note(self._delivery, NoteKind.CHECKPOINT, packed)
        self._saved = state

    async def each(
        self, source: Iterable[T] | AsyncIterable[T] | Callable[[int], Iterable[T] | AsyncIterable[T]], every: int = 100
    ) -> AsyncIterator[T]:
        """
        Iterate, and resume after a crash, a deploy or a retry where it stopped.

        The position is a checkpoint, stored after each `every` items and at the end; items after it come again.

        Args:
            source: An iterable with the same items in the same order each time (the ones that are done are skipped),
                or a function that is given the number of items done and returns the rest.
            every: Items from one checkpoint to the next.
        """
        check_whole("each: every", every)
        if not (callable(source) or isinstance(source, Iterable | AsyncIterable)):
            raise UsageError(f"each: source={source!r}: it must be an iterable, or a function that returns one")
        if callable(source):
            try:
                inspect.signature(source).bind(0)
            except TypeError:
                raise UsageError(f"each: source={source!r}: a function is given the number of items done") from None
            except ValueError:  # a function without a signature, in C
                pass
        if self._iterated:
            raise UsageError(
                "each() was used before in this job; there is one position, so use checkpoint() for more loops"
            )
        self._iterated = True
        done = self.saved if isinstance(self.saved, int) and not isinstance(self.saved, bool) else 0
        items = source(done) if callable(source) else source
        skip = 0 if callable(source) else done
        count = done - skip
        async for item in _items(items):
            count += 1
            if count <= done and skip:
                continue
            yield item
            if count % every == 0:
                await self.checkpoint(count)
        if count > done:
            await self.checkpoint(count)


async def _items(source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


class JobContext(Generic[S]):
    """
    What the worker gives to a function whose first parameter is annotated with it: the lifespan's object, and the job.

    In a direct call of the function there is neither.
    """

    __slots__ = ("_job", "_state")

    def __init__(self, job: CurrentJob | None, state: S | None) -> None:
        self._job, self._state = job, state

    @classmethod
    def of_call(cls) -> JobContext[S]:
        """For a direct call, outside of a worker."""
        return cls(current.get(), None)

    @property
    def state(self) -> S:
        """What the app's lifespan yielded."""
        if self._state is None and self._job is None:
            raise UsageError("this function was called directly; the lifespan's state is there only in a worker")
        return self._state  # type: ignore[return-value]

    @property
    def job(self) -> CurrentJob:
        """The job that runs. Raises UsageError in a direct call."""
        if self._job is None:
            raise UsageError("this function was called directly and not run as a job")
        return self._job


# Set by the runner in each job's own context.
current: ContextVar[CurrentJob | None] = ContextVar("tracked_queue_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that runs here. Raises UsageError outside of a job."""
    job = current.get()
    if job is None:
        raise UsageError("current_job() was called outside of a running job")
    return job
