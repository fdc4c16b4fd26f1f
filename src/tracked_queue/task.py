"""A registered function: its options, its typed calls, and the registry that finds it by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

import msgspec

from .codec import Options, Signature, encode_extras, encode_options
from .constraints import Concurrency, Key, Limit, Unique, key_text, lane_of
from .current import CurrentJob, JobContext
from .errors import UsageError
from .handle import Job
from .job import check_name
from .retry import Exponential, RetryPolicy, Seconds, to_seconds

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT = 3600.0
DEFAULT_MAX_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a task says about its jobs; times in seconds. `result_ttl` None takes the app's setting."""

    queue: str = DEFAULT_QUEUE
    timeout: Seconds | None = DEFAULT_TIMEOUT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    retry: RetryPolicy = field(default_factory=Exponential)
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    on_exhausted: Callable[[CurrentJob, BaseException], Coroutine[Any, Any, object]] | None = None
    expires: Seconds | None = None
    result_ttl: Seconds | None = None
    tracked: bool = True
    unique: Unique | None = None
    limits: tuple[Limit, ...] = ()
    fair_by: Key | None = None
    isolate: str | None = None

    def __post_init__(self) -> None:
        check_name("queue", self.queue)
        for name in ("timeout", "expires"):
            _check_seconds(name, getattr(self, name), above=True)
        _check_seconds("result_ttl", self.result_ttl)
        check_attempts(self.max_attempts)
        for name in ("retry_on", "give_up_on"):
            for kind in getattr(self, name):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise UsageError(f"{name}: {kind!r} is not an exception class")
        if self.isolate not in (None, "process"):
            raise UsageError(f"isolate={self.isolate!r}: it must be 'process' or None")
        if not self.tracked:
            if self.on_exhausted is not None:
                raise UsageError(
                    "tracked=False: such a job runs once and has no attempts, so on_exhausted= is never called"
                )
            if self.unique is not None and self.unique.window is None and self.unique.until == "done":
                raise UsageError("tracked=False: nobody tells when such a job is done; use unique='until_started'")
            if any(isinstance(limit, Concurrency) for limit in self.limits):
                raise UsageError("tracked=False: nobody tells when such a job ends, so Concurrency(...) can't count it")

    @property
    def constrained(self) -> bool:
        """Whether an enqueue has to tell more than the call."""
        return self.expires is not None or self.unique is not None or bool(self.limits) or self.fair_by is not None

    @property
    def timeout_s(self) -> float | None:
        """`timeout` as a number."""
        return None if self.timeout is None else to_seconds("timeout", self.timeout)

    @property
    def result_ttl_s(self) -> float | None:
        """`result_ttl` as a number."""
        return None if self.result_ttl is None else to_seconds("result_ttl", self.result_ttl)


class JobOptionsArgs(TypedDict, total=False):
    """What one enqueue may say beyond its task; see JobOptions."""

    id: str | None
    queue: str | None
    delay: Seconds | None
    at: datetime | None
    timeout: Seconds | None
    max_attempts: int | None
    expires: Seconds | None
    headers: Mapping[str, Any] | None
    after: Sequence[Job[Any] | str] | None
    on_failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """
    What one enqueue says beyond its task. None takes the task's word.

    Args:
        id: The job's id; a second enqueue of it adds nothing.
        queue: Where it waits.
        delay: Seconds or timedelta from when the server stores it; the past means now.
        at: When it is due, a datetime with a timezone; the past means now.
        timeout: Seconds for one attempt.
        max_attempts: Runs in all.
        expires: Seconds from the enqueue; not started by then, it ends `expired`.
        headers: Plain data that travels with the job, for middleware.
        after: Jobs (or ids) that must end first; at most 1,000.
        on_failure: What an unsuccessful end of one of `after` means: `fail` ends this job too, `ignore` runs it all the
            same once all have ended, `fallback` runs it only then.
    """

    id: str | None = None
    queue: str | None = None
    delay: Seconds | None = None
    at: datetime | None = None
    timeout: Seconds | None = None
    max_attempts: int | None = None
    expires: Seconds | None = None
    headers: Mapping[str, Any] | None = None
    after: Sequence[Job[Any] | str] | None = None
    on_failure: str = "fail"
    # How the results of `after` reach the function: "" not at all, "one" as first argument, "list" as a list.
    inputs: str = ""
    # Schedule, ms of the tick, mode: for the scheduler.
    tick: tuple[str, int, str] | None = None

    def __post_init__(self) -> None:
        if self.id is not None:
            check_name("job id", self.id)
        if self.queue is not None:
            check_name("queue", self.queue)
        _check_seconds("delay", self.delay, negative=True)
        for name in ("timeout", "expires"):
            _check_seconds(name, getattr(self, name), above=True)
        if self.max_attempts is not None:
            check_attempts(self.max_attempts)
        if self.at is not None and (not isinstance(self.at, datetime) or self.at.tzinfo is None):
            raise UsageError(f"at={self.at!r}: it must be a datetime with a timezone, such as datetime.now(UTC)")
        if self.at is not None and self.delay is not None:
            raise UsageError("delay and at were both given; a job is due at one time")
        if self.on_failure not in ("fail", "ignore", "fallback"):
            raise UsageError(f"on_failure={self.on_failure!r}: it must be 'fail', 'ignore' or 'fallback'")
        if self.after is not None:
            if isinstance(self.after, str | bytes) or len(self.after) > MAX_AFTER:
                raise UsageError(f"after: it must be a list of at most {MAX_AFTER} jobs or ids")
            for id in self.after_ids:
                check_name("after: job id", id)

    @property
    def after_ids(self) -> list[str]:
        """The ids of `after`."""
        return [job if isinstance(job, str) else job.id for job in self.after or ()]

    @property
    def constrained(self) -> bool:
        """Whether the enqueue has to tell more than the call."""
        return self.expires is not None or self.after is not None or self.tick is not None

    @property
    def due_ms(self) -> int | None:
        """`at` as milliseconds since 1970, compared with the server's clock; the past means now."""
        return None if self.at is None else max(0, int(self.at.astimezone(UTC).timestamp() * 1000))

    @property
    def delay_ms(self) -> int | None:
        """`delay` in milliseconds, counted from when the server stores the job; the past means now."""
        return None if self.delay is None else max(0, round(to_seconds("delay", self.delay, negative=True) * 1000))

    def stored(self, headers: Mapping[str, Any]) -> bytes:
        """The part that travels with the job, encoded; empty when there is none."""
        if self.timeout is None and self.max_attempts is None and not headers and not self.inputs:
            return b""
        timeout_ms = None if self.timeout is None else max(1, round(to_seconds("timeout", self.timeout) * 1000))
        return encode_options(
            Options(
                timeout_ms=timeout_ms, max_attempts=self.max_attempts, headers=dict(headers) or None, inputs=self.inputs
            )
        )


MAX_AFTER = 1000


def _check_seconds(name: str, value: Any, *, above: bool = False, negative: bool = False) -> None:
    if value is not None:
        to_seconds(name, value, above=above, negative=negative)


def check_attempts(value: object) -> None:
    """Refuse what is no number of runs: `max_attempts` 1 means no retry."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"max_attempts={value!r}: it must be a whole number, 1 or more (1 means no retry)")


def extras_of(
    task: str,
    queue: str,
    chosen: TaskOptions,
    options: JobOptions,
    arguments: Callable[[], Mapping[str, Any]],
    canonical: Callable[[], bytes],
    of_queue: Sequence[Limit] = (),
) -> bytes:
    """What lua/enqueue.lua has to know beyond the call: MessagePack of its `extras`; empty for a plain job."""
    extras: dict[str, Any] = {}
    expires = options.expires if options.expires is not None else chosen.expires
    if expires is not None:
        extras["expires"] = f"+{max(1, round(to_seconds('expires', expires) * 1000))}"
    if chosen.unique is not None:
        extras["unique"] = chosen.unique.parts(task, arguments() if chosen.unique.by is not None else {}, canonical)
    if chosen.limits or of_queue or chosen.fair_by is not None:
        given = arguments()
        limits = [limit.parts(task, given) for limit in chosen.limits]
        limits += [limit.parts(f"queue:{queue}", given) for limit in of_queue]
        turn = None if chosen.fair_by is None else key_text(chosen.fair_by, given, f"task {task}: fair_by")
        extras["lane"] = lane_of(queue, limits, turn)
        if limits:
            extras["limits"] = limits
    if options.after is not None:
        extras["after"] = options.after_ids
        extras["on_failure"] = options.on_failure
    if options.tick is not None:
        extras["tick"] = options.tick
    return encode_extras(extras) if extras else b""


_NO_JOB_OPTIONS = JobOptions()


class Request(msgspec.Struct, frozen=True):
    """One job to be stored, checked and encoded; nothing about it can fail any more before the send."""

    id: str
    task: str
    queue: str
    args: bytes
    kwargs: bytes
    options: bytes
    delay_ms: int | None
    due_ms: int | None
    tracked: bool
    extras: bytes
    result: Any  # the task's ValueCodec for its result, or None for a task whose code is not at hand


class Enqueuer(Protocol):
    """What a task needs of its app: to turn a call into a request, and to store it."""

    def request(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request: ...

    async def enqueue_call(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]: ...

    def enqueue_call_sync(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]: ...


class PreparedCall(msgspec.Struct, Generic[R], frozen=True):
    """A checked call that is not sent yet: what `app.enqueue_many` and workflows take."""

    request: Request
    task: Any
    options: JobOptions
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Step(msgspec.Struct, frozen=True):
    """A call whose first argument will be the result of the job before it: what chains and groups take."""

    task: Any
    options: JobOptions
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Task(Generic[P, R]):
    """
    A registered `async def`: call it as before, or `enqueue` the call.

    Source: docs/tutorial.md.
    """

    def __init__(self, name: str, function: Callable[..., Any], options: TaskOptions, app: Enqueuer) -> None:
        self.name, self.function, self.task_options, self._app = check_name("task name", name), function, options, app
        self.is_async = inspect.iscoroutinefunction(function)
        update_wrapper(self, function)

    @cached_property
    def takes_context(self) -> bool:
        """Whether the function's first parameter is a JobContext, which the worker gives and no producer."""
        return takes_context(self.function)

    def move_to(self, app: Enqueuer) -> None:
        """Enqueue through another app: that of `include`."""
        self._app = app

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*((JobContext.of_call(),) if self.takes_context else ()), *args, **kwargs)

    @cached_property
    def signature(self) -> Signature:
        """The codec of the arguments; made at first use, when every name in an annotation is defined."""
        return Signature(self.name, self.function, skip_first=self.takes_context)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function here and now; no queue, no Redis."""
        running: Coroutine[Any, Any, R] = self._called(*args, **kwargs)
        return running

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.task_options.queue}>"

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a call as a job. Raises ArgumentError before anything is sent, and EnqueueUnavailableError."""
        return await self._app.enqueue_call(self, _NO_JOB_OPTIONS, args, kwargs)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`enqueue` for code without an event loop: safe in threads and after a fork."""
        return self._app.enqueue_call_sync(self, _NO_JOB_OPTIONS, args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """A checked call for `app.enqueue_many`."""
        request = self._app.request(self, _NO_JOB_OPTIONS, args, kwargs)
        return PreparedCall(request, self, _NO_JOB_OPTIONS, args, kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Step:
        """A call for `app.chain` or `app.group` whose first argument comes from there; checked when it is stored."""
        return Step(self, _NO_JOB_OPTIONS, args, kwargs)

    def options(self, **options: Unpack[JobOptionsArgs]) -> BoundTask[P, R]:
        """The same task with options (see JobOptions) for the next enqueue; they never mix with the function's arguments."""
        return BoundTask(self, JobOptions(**options), self._app)


class SyncTask(Task[P, R]):
    """A registered plain `def`: run in a thread, or with `isolate="process"` in a child process; called, it just runs."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        """Run the function here and now; no queue, no Redis."""
        result: R = self._called(*args, **kwargs)
        return result


class BoundTask(Generic[P, R]):
    """A task with the options of one enqueue."""

    def __init__(self, task: Task[P, R], options: JobOptions, app: Enqueuer) -> None:
        self._task, self._options, self._app = task, options, app

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue`."""
        return await self._app.enqueue_call(self._task, self._options, args, kwargs)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue_sync`."""
        return self._app.enqueue_call_sync(self._task, self._options, args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """See `Task.call`."""
        request = self._app.request(self._task, self._options, args, kwargs)
        return PreparedCall(request, self._task, self._options, args, kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Step:
        """See `Task.step`."""
        return Step(self._task, self._options, args, kwargs)


class Registry:
    """The tasks of one app by name. Workers run nothing else, whatever a record says."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def add(self, task: Task[..., Any]) -> None:
        """Raises UsageError for a second task of the same name."""
        if task.name in self._tasks:
            raise UsageError(f"task {task.name}: there is a task of that name already; give one of them name=...")
        self._tasks[task.name] = task

    def get(self, name: str) -> Task[..., Any] | None:
        """The task of that name, or None."""
        return self._tasks.get(name)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def queues(self) -> list[str]:
        """The queues of all tasks, in the order of registration."""
        return list(dict.fromkeys(task.task_options.queue for task in self))


def check_function(function: Any, *, isolate: bool = False) -> None:
    """
    Refuse what is not a plain `async def` or `def`.

    Raises:
        UsageError: Also a TypeError; says what the function is and what to do.
    """
    shown = getattr(function, "__qualname__", None) or repr(function)
    if isinstance(function, staticmethod | classmethod):
        problem = "a staticmethod or classmethod; decorate a function of the module"
    elif inspect.ismethod(function):
        problem = "a bound method; decorate a function of the module"
    elif inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        problem = "a generator; a task returns one value"
    elif not inspect.isfunction(function):
        problem = f"a {type(function).__qualname__}; decorate an `async def` or `def` function"
    elif function.__name__ == "<lambda>":
        problem = "a lambda; give it a name with `def`"
    elif isolate and (inspect.iscoroutinefunction(function) or takes_context(function)):
        problem = "async, or takes a JobContext; isolate='process' runs a plain `def` without one"
    elif isolate and "<locals>" in function.__qualname__:
        problem = "a nested function; isolate='process' needs one that the child process can import"
    else:
        return
    raise TaskDefinitionError(f"{shown} can't be a task: it is {problem}")


class TaskDefinitionError(UsageError, TypeError):
    """Something that is not a plain function was decorated."""


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether the first parameter is annotated as JobContext."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    kind = None if first is None else first.annotation
    if isinstance(kind, str):  # from __future__ import annotations
        return kind.split("[")[0].split(".")[-1] == "JobContext"
    return kind is JobContext or getattr(kind, "__origin__", None) is JobContext


def task_name(function: Callable[..., Any]) -> str:
    """
    `module.function`, the same in the process that defines the task as a script and in a worker that imports it.

    Run as a script, a module is called `__main__`; its real name is that of `python -m`, or of the file.
    """
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        if spec is not None and spec.name:
            module = spec.name.removesuffix(".__main__")
        elif file:
            module = Path(file).stem
    return f"{module}.{function.__qualname__}"


def prepared(calls: Sequence[PreparedCall[Any]]) -> Sequence[PreparedCall[Any]]:
    """The calls. Raises UsageError for anything else, before anything is sent."""
    for position, call in enumerate(calls):
        if not isinstance(call, PreparedCall):
            raise UsageError(
                f"enqueue_many: item {position} is a {type(call).__qualname__}; make it with task.call(...)"
            )
    return calls
