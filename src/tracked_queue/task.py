"""A registered function: its options, its typed calls, and the registry that finds it by name."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from .codec import Options, Signature, encode_options
from .errors import UsageError
from .handle import Job
from .job import check_name
from .retry import Backoff

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT = 3600.0
DEFAULT_MAX_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a task says about its jobs; times in seconds. `result_ttl` None takes the app's setting."""

    queue: str = DEFAULT_QUEUE
    timeout: float | None = DEFAULT_TIMEOUT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    backoff: Backoff = field(default_factory=Backoff)
    result_ttl: float | None = None
    tracked: bool = True

    def __post_init__(self) -> None:
        check_name("queue", self.queue)
        check_seconds("timeout", self.timeout, above=True)
        check_seconds("result_ttl", self.result_ttl)
        check_attempts(self.max_attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What one enqueue says beyond its task; times in seconds. None takes the task's word."""

    id: str | None = None
    queue: str | None = None
    delay: float | None = None
    at: datetime | None = None
    timeout: float | None = None
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        if self.id is not None:
            check_name("job id", self.id)
        if self.queue is not None:
            check_name("queue", self.queue)
        check_seconds("delay", self.delay, negative=True)
        check_seconds("timeout", self.timeout, above=True)
        if self.max_attempts is not None:
            check_attempts(self.max_attempts)
        if self.at is not None and (not isinstance(self.at, datetime) or self.at.tzinfo is None):
            raise UsageError(f"at={self.at!r}: it must be a datetime with a timezone, such as datetime.now(UTC)")
        if self.at is not None and self.delay is not None:
            raise UsageError("delay and at were both given; a job is due at one time")

    @property
    def due_ms(self) -> int | None:
        """`at` as milliseconds since 1970, compared with the server's clock; the past means now."""
        return None if self.at is None else max(0, int(self.at.astimezone(UTC).timestamp() * 1000))

    @property
    def delay_ms(self) -> int | None:
        """`delay` in milliseconds, counted from when the server stores the job; the past means now."""
        return None if self.delay is None else max(0, round(self.delay * 1000))

    @property
    def stored(self) -> bytes:
        """The part that travels with the job, encoded; empty when there is none."""
        if self.timeout is None and self.max_attempts is None:
            return b""
        timeout_ms = None if self.timeout is None else max(1, round(self.timeout * 1000))
        return encode_options(Options(timeout_ms=timeout_ms, max_attempts=self.max_attempts))


# A century: beyond it a number of seconds is a mistake, and its milliseconds would leave Redis' exact integers.
MAX_SECONDS = 100 * 366 * 86400.0


def check_seconds(name: str, value: object, *, above: bool = False, negative: bool = False) -> None:
    """Refuse what is no sensible number of seconds; `negative` numbers are allowed where the past means now."""
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value > MAX_SECONDS:  # type: ignore[operator, arg-type]
        raise UsageError(f"{name}={value!r}: it must be a number of seconds up to {MAX_SECONDS:.0f}")
    if (above and value <= 0) or (value < 0 and not negative):  # type: ignore[operator]
        raise UsageError(f"{name}={value!r}: it must be {'above 0' if above else '0 or more'}")


def check_attempts(value: object) -> None:
    """Refuse what is no number of runs: `max_attempts` 1 means no retry."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"max_attempts={value!r}: it must be a whole number, 1 or more (1 means no retry)")


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
    result: Any  # the task's ValueCodec for its result, or None for a task whose code is not at hand


class Enqueuer(Protocol):
    """What a task needs of its app: to turn a call into a request, and to store it."""

    def request(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request: ...

    async def store_one(self, request: Request) -> Job[Any]: ...

    def store_one_sync(self, request: Request) -> Job[Any]: ...


class PreparedCall(msgspec.Struct, Generic[R], frozen=True):
    """A checked call that is not sent yet: what `app.enqueue_many` takes."""

    request: Request


class Task(Generic[P, R]):
    """
    A registered `async def`: call it as before, or `enqueue` the call.

    Source: docs/tutorial.md.
    """

    def __init__(
        self, name: str, function: Callable[P, Coroutine[Any, Any, R]], options: TaskOptions, app: Enqueuer
    ) -> None:
        self.name, self.function, self.task_options, self._app = check_name("task name", name), function, options, app
        update_wrapper(self, function)

    @cached_property
    def signature(self) -> Signature:
        """The codec of the arguments; made at first use, when every name in an annotation is defined."""
        return Signature(self.name, self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function here and now; no queue, no Redis."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.task_options.queue}>"

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a call as a job. Raises ArgumentError before anything is sent, and EnqueueUnavailableError."""
        return await self._app.store_one(self._app.request(self, _NO_JOB_OPTIONS, args, kwargs))

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`enqueue` for code without an event loop: safe in threads and after a fork."""
        return self._app.store_one_sync(self._app.request(self, _NO_JOB_OPTIONS, args, kwargs))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """A checked call for `app.enqueue_many`."""
        return PreparedCall(self._app.request(self, _NO_JOB_OPTIONS, args, kwargs))

    def options(
        self,
        *,
        id: str | None = None,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
    ) -> BoundTask[P, R]:
        """The same task with options for the next enqueue; they never mix with the function's arguments."""
        chosen = JobOptions(id=id, queue=queue, delay=delay, at=at, timeout=timeout, max_attempts=max_attempts)
        return BoundTask(self, chosen, self._app)


class BoundTask(Generic[P, R]):
    """A task with the options of one enqueue."""

    def __init__(self, task: Task[P, R], options: JobOptions, app: Enqueuer) -> None:
        self._task, self._options, self._app = task, options, app

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue`."""
        return await self._app.store_one(self._app.request(self._task, self._options, args, kwargs))

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue_sync`."""
        return self._app.store_one_sync(self._app.request(self._task, self._options, args, kwargs))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """See `Task.call`."""
        return PreparedCall(self._app.request(self._task, self._options, args, kwargs))


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


def check_function(function: Any) -> None:
    """
    Refuse what is not a plain `async def`.

    Raises:
        UsageError: Also a TypeError; says what the function is and what to do.
    """
    shown = getattr(function, "__qualname__", None) or repr(function)
    if isinstance(function, staticmethod | classmethod):
        problem = "a staticmethod or classmethod; decorate a function of the module"
    elif inspect.ismethod(function):
        problem = "a bound method; decorate a function of the module"
    elif inspect.isasyncgenfunction(function):
        problem = "an async generator; a task returns one value"
    elif not inspect.isfunction(function):
        problem = f"a {type(function).__qualname__}; decorate an `async def` function"
    elif not inspect.iscoroutinefunction(function):
        problem = "not `async def`; wrap blocking work in `await anyio.to_thread.run_sync(...)`"
    else:
        return
    raise TaskDefinitionError(f"{shown} can't be a task: it is {problem}")


class TaskDefinitionError(UsageError, TypeError):
    """Something that is not an `async def` function was decorated."""


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


def prepared(calls: Sequence[PreparedCall[Any]]) -> list[Request]:
    """The requests of prepared calls. Raises UsageError for anything else, before anything is sent."""
    for position, call in enumerate(calls):
        if not isinstance(call, PreparedCall):
            raise UsageError(
                f"enqueue_many: item {position} is a {type(call).__qualname__}; make it with task.call(...)"
            )
    return [call.request for call in calls]
