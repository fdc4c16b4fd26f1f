"""A task with Celery's methods, over a task of the queue."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ...app import TrackedQueue, producer_of
from ...errors import MaxRetriesExceededError, UsageError
from ...model.context import current
from ...model.job import Job
from ...model.retry import Dead, Discard
from ...model.task import PreparedCall, Step, Task
from ...settings import Seconds
from ...worker.isolated import about
from .bound import BoundTask
from .options import Declared, declared, mark, sent
from .results import AsyncResult
from .values import plain, typed

if TYPE_CHECKING:
    from .canvas import Signature

P = ParamSpec("P")
R = TypeVar("R")

_MISSING = {
    "apply": "call the task, or run jobs by tracked_queue.testing",
    "map": "write group(task.s(item) for item in items)",
    "starmap": "write group(task.s(*item) for item in items)",
    "chunks": "write group(...) over portions",
    "subtask": "write task.s(...)",
    "replace": "enqueue what comes next at the end of the task",
    "backend": "results are in the queue's Redis",
    "request": "bind=True, and self.request in the task",
    "retry": "bind=True, and self.retry in the task",
    "update_state": "bind=True, and self.update_state in the task",
    "run": "call the task",
    "app": "`Celery(queue)` made it; .queue is the queue",
}


class CeleryTask(Generic[P, R]):
    """
    A function as a task: called, it runs here and now; `delay` and `apply_async` enqueue it.

    `task` is the task of the queue under it, with all that this has. Arguments travel as Celery's JSON, without regard to
    annotations: text, numbers, lists, dicts, dates and times, `Decimal`, `UUID`; tuples arrive as lists.

    Source: docs/how-to/celery.md.
    """

    MaxRetriesExceededError = MaxRetriesExceededError

    def __init__(self, function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
        update_wrapper(self, function)
        self.name, self._function = name, function
        self.declared, self._options = declared(name, options)
        self._task: Task[..., Any] | None = None

    def __copy__(self) -> CeleryTask[P, R]:
        return self

    def __deepcopy__(self, _memo: Any) -> CeleryTask[P, R]:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "name" not in vars(self):
            raise AttributeError(name)
        if name in _MISSING:
            raise AttributeError(f"task {self.name} has no .{name} here: {_MISSING[name]}")
        raise AttributeError(f"task {self.name} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<CeleryTask {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        before = (BoundTask(self, None, args, kwargs),) if self.declared.bind else ()
        result: R = self._function(*before, *args, **kwargs)
        return result

    @property
    def max_retries(self) -> int | None:
        """How often a job runs again; None is without end."""
        return self.declared.max_retries

    @property
    def default_retry_delay(self) -> Seconds:
        """Seconds until it does, if nothing else is said."""
        return self.declared.default_retry_delay

    @property
    def expires(self) -> Any:
        """What its decorator said of when its jobs expire; None for nothing."""
        return self._options.get("expires")

    @property
    def task(self) -> Task[..., Any]:
        """
        The task of the queue.

        Raises:
            UsageError: There is no queue yet: `Celery(queue)` was not called.
        """
        if self._task is None:
            raise UsageError(
                f"task {self.name}: there is no queue yet: write app = Celery(TrackedQueue(...)), and import that module first"
            )
        return self._task

    @property
    def queue(self) -> TrackedQueue:
        """The queue. Raises UsageError; see `task`."""
        found: TrackedQueue = self.task.app
        return found

    def bind_to(self, queue: TrackedQueue) -> None:
        """Register it there; `Celery` does this. Raises UsageError for a name that is taken."""
        self._task = queue.task(name=self.name, **self._options)(self._registered())

    # Enqueueing

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Store a call as a job."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """
        Store a call as a job.

        Args:
            options: countdown, eta, expires, queue, task_id, headers, time_limit, soft_time_limit.

        Raises:
            UsageError: An option has no counterpart; says what to do instead.
            ArgumentError: The arguments don't fit the function, or can't be stored.
            EnqueueUnavailableError: Redis is away.
        """
        (job,) = self.queue.enqueue_many_sync([self.call(args, kwargs, options)])
        return AsyncResult(job)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` in an event loop."""
        (job,) = await self.queue.enqueue_many([self.call(args, kwargs, options)])
        return AsyncResult(job)

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` when the transaction of Django commits. The id is known at once."""
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` when the transaction of Django commits. The id is known at once."""
        from django.db import transaction

        call = self.call(args, kwargs, options)
        transaction.on_commit(partial(self.queue.enqueue_many_sync, [call]))
        return AsyncResult(Job(call.request.id, False, producer_of(self.queue), call.request.result))

    def call(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> PreparedCall[Any]:
        """A checked call for workflows and `enqueue_many`."""
        made: PreparedCall[Any] = self._with(options).call(*plain(args or ()), **plain(kwargs or {}))
        return made

    def step(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Step:
        """A call whose first argument is the result of what comes before it."""
        made: Step = self._with(options).step(*plain(args), **plain(kwargs))
        return made

    def _with(self, options: Mapping[str, Any]) -> Any:
        return self.task.options(**sent(self.name, options))

    # Canvas

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A call for a chain, group or chord; in them it gets the result of what comes before as first argument."""
        from .canvas import Signature

        return Signature(self, args, kwargs, {}, immutable=False)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """A call that takes nothing from what comes before."""
        from .canvas import Signature

        return Signature(self, args, kwargs, {}, immutable=True)

    def signature(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, immutable: bool = False, **options: Any
    ) -> Signature:
        """`s` or `si` with options of `apply_async`."""
        from .canvas import Signature

        return Signature(self, tuple(args), dict(kwargs or {}), options, immutable=immutable)

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:
        """The result of a job by its id."""
        return AsyncResult(self.queue.job(task_id))

    # Running

    def _registered(self) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(self._function):

            async def arun(*args: Any, **kwargs: Any) -> Any:
                args, kwargs, bound = self._bound(typed(list(args)), typed(kwargs))
                with _Decided(bound):
                    return plain(await self._function(*args, **kwargs))

            made: Any = arun
        else:

            def run(*args: Any, **kwargs: Any) -> Any:
                args, kwargs, bound = self._bound(typed(list(args)), typed(kwargs))
                with _Decided(bound):
                    return plain(self._function(*args, **kwargs))

            made = run
        update_wrapper(made, self._function)
        del made.__wrapped__
        made.__annotations__ = {}
        made.__signature__ = self._parameters()
        made.__tracked_queue_values__ = plain  # see migrate.bridge
        return made  # type: ignore[no-any-return]

    def _bound(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], BoundTask | None]:
        if not self.declared.bind:
            return tuple(args), dict(kwargs), None
        bound = BoundTask(self, current.get() or about.get(), tuple(args), kwargs)
        return (bound, *args), dict(kwargs), bound

    def _parameters(self) -> inspect.Signature:
        """The function's, without `self` and without types: arguments are what Celery's JSON makes of them."""
        parameters = list(inspect.signature(self._function).parameters.values())
        if self.declared.bind and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            del parameters[0]
        return inspect.Signature([item.replace(annotation=inspect.Parameter.empty) for item in parameters])


class _Decided:
    """
    What leaves a run decides about the job, where it was given up by `self.retry(...)`.

    Not made by contextlib, which sets attributes of errors: some refuse that.
    """

    def __init__(self, bound: BoundTask | None) -> None:
        self._bound = bound

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        if self._bound is None or error is not self._bound.given_up:
            mark(error, "")
            return
        if about.get() is not None:
            # A process of its own tells only of the class of an error, and what the job wants.
            wish = Dead if self._bound.is_last else Discard
            raise wish(f"{type(error).__qualname__}: {error}") from error
        mark(error, "retried" if self._bound.is_last else "final")


def checked(function: Any, options: Mapping[str, Any]) -> Declared:
    """Refuse what can't be a task. Raises UsageError."""
    if not inspect.isfunction(function):
        raise UsageError(f"{function!r} can't be a task: decorate a function of a module")
    own, _ = declared(function.__qualname__, options)
    if own.bind and not inspect.signature(function).parameters:
        raise UsageError(
            f"{function.__qualname__}: bind=True passes the task as first argument; the function takes none"
        )
    return own
