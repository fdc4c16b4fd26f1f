"""What an app puts around its jobs: the lifespan, middleware for running and for enqueueing, context variables that travel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from ..errors import UsageError
from .context import CurrentJob
from .job import Job
from .options import JobOptions

T = TypeVar("T")

CallNext = Callable[[], Awaitable[Any]]
# The job, the error of its run, and whether it will be retried.
FailureHook = Callable[[CurrentJob, BaseException, bool], None]
RunMiddleware = Callable[[CurrentJob, CallNext], Coroutine[Any, Any, Any]]


@dataclass(slots=True, kw_only=True)
class Enqueueing:
    """One enqueue on its way, for middleware; `headers` may be changed, and travel with the job."""

    task: str
    queue: str
    id: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: JobOptions
    headers: dict[str, Any] = field(default_factory=dict)


EnqueueNext = Callable[[], Awaitable[Job[Any]]]
EnqueueMiddleware = Callable[[Enqueueing, EnqueueNext], Coroutine[Any, Any, Job[Any]]]
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
# Entered in a thread.
SyncContext = Callable[[], AbstractContextManager[Any]]


class Arrival(NamedTuple):
    """How a delivery came here, for its span: ms in its queue (-1 if not known) and in the buffer, the span before it."""

    queue_ms: int
    buffer_ms: int
    previous: str  # traceparent of the delivery before; '' if there was none that was traced


class RunSpan(Protocol):
    """The span of one delivery; it is the current one of the task that began it."""

    @property
    def mark(self) -> str:
        """Its traceparent."""

    def raised(self, error: BaseException, text: str) -> None:
        """The function raised this; `text` is what may be said of it, '' for nothing."""

    def ended(self, outcome: str) -> None:
        """It ends with this outcome; only the first one counts."""


class Moved(NamedTuple):
    """One job that a recovery moved, with the headers of its enqueue."""

    id: str
    task: str
    queue: str
    fate: str
    headers: Mapping[str, Any]


class Tracing(Protocol):
    """What an app's jobs are traced with; see `tracked_queue.tracing`. Neither this nor a RunSpan ever raises."""

    def enqueueing(self, on_its_way: Enqueueing, many: bool) -> AbstractContextManager[Callable[[str], None]]:
        """Around one enqueue, or (`many`) around the making of one job of a larger one; to be called with the job's id."""

    def sending(self, queues: Sequence[str]) -> AbstractContextManager[None]:
        """Around a call that stores many jobs, in these queues."""

    def running(self, job: CurrentJob, arrival: Arrival) -> RunSpan | None:
        """The start of a delivery's run, in its task."""

    def recovered(self, lease: str, label: str, jobs: Sequence[Moved]) -> None:
        """Some jobs of a lost instance were moved."""


class Companion(Protocol):
    """Something that each worker process of an app runs beside its jobs."""

    async def before_burst(self) -> None:
        """Awaited before a worker that ends by itself fetches anything."""

    async def beside(self) -> None:
        """Runs from the lifespan's start until the last job has ended, and is cancelled then; it must not raise."""


# What apps are traced with that are made from now on; set by `opentelemetry-instrument`.
tracing_by_default: Tracing | None = None


@dataclass(slots=True)
class Hooks:
    """What one app puts around its jobs."""

    lifespan: Lifespan | None = None
    carry: tuple[ContextVar[Any], ...] = ()
    run: list[RunMiddleware] = field(default_factory=list)
    enqueue: list[EnqueueMiddleware] = field(default_factory=list)
    failed: list[FailureHook] = field(default_factory=list)
    thread_contexts: list[SyncContext] = field(default_factory=list)
    thread_lifespans: list[SyncContext] = field(default_factory=list)
    companions: list[Companion] = field(default_factory=list)
    # What takes a dependency's place, for tests; and where else that may be said.
    overrides: dict[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    further_overrides: list[Callable[[], Mapping[Any, Callable[..., Any]]]] = field(default_factory=list)
    tracing: Tracing | None = field(default_factory=lambda: tracing_by_default)
    # Called with each batch of outcomes that the store has answered, with its verdicts (the chaos harness notes them).
    settled: list[Callable[[str, list[Any], list[Any]], None]] = field(default_factory=list)

    def overridden(self, call: Any) -> Callable[..., Any]:
        """A dependency, or what takes its place."""
        for overrides in (self.overrides, *(more() for more in self.further_overrides)):
            if call in overrides:
                found: Callable[..., Any] = overrides[call]
                return found
        made: Callable[..., Any] = call
        return made

    @property
    def see_enqueues(self) -> bool:
        """Whether something is around each enqueue."""
        return bool(self.enqueue) or self.tracing is not None

    def carried(self) -> dict[str, Any]:
        """The values of the variables that travel, where they are set."""
        missing = object()
        values = {variable.name: variable.get(missing) for variable in self.carry}
        return {name: value for name, value in values.items() if value is not missing}


def chained(layers: Sequence[Callable[..., Any]], subject: Any, innermost: Callable[[], Awaitable[T]]) -> Awaitable[T]:
    """The first layer around the second, and so on; `innermost` at the end."""
    call = innermost
    for layer in reversed(layers):
        call = _around(layer, subject, call)
    return call()


def _around(layer: Callable[..., Any], subject: Any, inner: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    return lambda: layer(subject, inner)


def run_now(work: Awaitable[T]) -> T:
    """
    Run middleware without an event loop, for `enqueue_sync`.

    Raises:
        UsageError: It waits for something.
    """
    running = work.__await__()
    try:
        next(running)
    except StopIteration as done:
        result: T = done.value
        return result
    running.close()
    raise UsageError("enqueue_sync: an enqueue middleware awaits something, and there is no event loop; use enqueue")
