"""A registered function: its typed calls, and the registry that finds it by name."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property, update_wrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

import msgspec

from ..errors import TaskDefinitionError, UnreadableHintsError, UsageError
from ..protocol.request import Request
from .checks import check_name
from .codec import Signature
from .context import JobContext
from .dependencies import Marker, dependencies_of
from .job import Job
from .options import JobOptions, JobOptionsArgs, TaskOptions, job_options

P = ParamSpec("P")
R = TypeVar("R")

_NO_JOB_OPTIONS = JobOptions()


class Enqueuer(Protocol):
    """What a task needs of its app: to turn a call into a request, and to store it."""

    @property
    def app(self) -> Any: ...

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
    """
    A checked call that is not sent yet: what `app.enqueue_many` and workflows take.

    Each time it is stored it makes a job, unless the caller gave an id. Until then its ids stay the same, so that a call whose
    reply was lost is sent again and not doubled.
    """

    request: Request
    task: Any
    options: JobOptions
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    # Ids that were made for it and are not known to be stored; None: only the request's own. Not a list, which would
    # cost the garbage collector as much as the rest of a call.
    spare: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"<call of task {self.request.task}>"

    def taken(self, new_like: Callable[[str], str]) -> PreparedCall[R]:
        """This call with an id to be stored under."""
        if self.options.id is not None:
            return self
        if self.spare is None:
            msgspec.structs.force_setattr(self, "spare", ())
            return self
        id = self.spare[-1] if self.spare else new_like(self.request.id)
        msgspec.structs.force_setattr(self, "spare", self.spare[:-1])
        if id == self.request.id:
            return self
        request = msgspec.structs.replace(self.request, id=id)
        return PreparedCall(request, self.task, self.options, self.args, self.kwargs)

    def give_back(self, id: str) -> None:
        """Take back an id that is not known to be stored: the next time the call gets it again."""
        if self.options.id is None:
            msgspec.structs.force_setattr(self, "spare", (*(self.spare or ()), id))


class Step(msgspec.Struct, frozen=True):
    """A call whose first argument will be the result of the job before it: what chains and groups take."""

    task: Any
    options: JobOptions
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        return f"<step of task {self.task.name}>"


class Task(Generic[P, R]):
    """
    A registered `async def`: call it as before, or `enqueue` the call.

    Source: docs/tutorial.md.
    """

    def __init__(self, name: str, function: Callable[..., Any], options: TaskOptions, enqueuer: Enqueuer) -> None:
        # First, so that no attribute that a decorator left on the function takes the place of one of ours.
        update_wrapper(self, function)
        self.name, self.function, self.task_options, self.enqueuer = (
            check_name("task name", name),
            function,
            options,
            enqueuer,
        )
        self.is_async = inspect.iscoroutinefunction(function)
        if self.is_async:
            _mark_as_coroutine_function(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_at, (self.__module__, self.function.__qualname__, self.name)

    def __copy__(self) -> Task[P, R]:
        return self

    def __deepcopy__(self, _memo: Any) -> Task[P, R]:
        return self

    @cached_property
    def takes_context(self) -> bool:
        """Whether the function's first parameter is a JobContext, which the worker passes, not the enqueue."""
        return takes_context(self.function)

    @property
    def app(self) -> Any:
        """The app through which it enqueues."""
        return self.enqueuer.app

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*((JobContext.of_call(),) if self.takes_context else ()), *args, **kwargs)

    def prepare(self) -> None:
        """
        Check the annotations now, so that an unsupported one is reported at the decorator. One that names something
        defined further down is checked when a worker starts, or at the first use.

        Raises:
            ArgumentError: Names the argument.
        """
        with contextlib.suppress(UnreadableHintsError):
            _ = self.signature

    @cached_property
    def dependencies(self) -> dict[str, Marker]:
        """
        The parameters that are made for each run, and are no arguments of the job.

        Raises:
            TaskDefinitionError: One of them can't be made for a job.
            UnreadableHintsError: An annotation names something that can't be found (yet).
        """
        try:
            found = dependencies_of(self.name, self.function, self.takes_context)
        except TaskDefinitionError:
            raise
        except Exception as error:
            raise UnreadableHintsError(self.name, "", f"its annotations can't be read ({error})") from None
        if found and self.task_options.isolate == "process":
            raise TaskDefinitionError(
                f"task {self.name}: with isolate='process' it runs apart from the worker, so nothing makes {next(iter(found))}"
            )
        return found

    @cached_property
    def signature(self) -> Signature:
        """The codec of the arguments; made at first use, when every name in an annotation is defined."""
        signature = Signature(self.name, self.function, skip_first=self.takes_context, made=self.dependencies)
        if signature.streams and self.task_options.isolate == "process":
            raise TaskDefinitionError(
                f"task {self.name} takes a Results[...]; with isolate='process' it runs apart from the worker: take a list"
            )
        return signature

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function here and now; no queue, no Redis."""
        running: Coroutine[Any, Any, R] = self._called(*args, **kwargs)
        return running

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.task_options.queue}>"

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a call as a job. Raises ArgumentError before anything is sent, and EnqueueUnavailableError."""
        return await self.enqueuer.enqueue_call(self, _NO_JOB_OPTIONS, args, kwargs)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`enqueue` for code without an event loop: safe in threads and after a fork."""
        return self.enqueuer.enqueue_call_sync(self, _NO_JOB_OPTIONS, args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """A checked call for `app.enqueue_many`."""
        request = self.enqueuer.request(self, _NO_JOB_OPTIONS, args, kwargs)
        return PreparedCall(request, self, _NO_JOB_OPTIONS, args, kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Step:
        """A call for `app.chain` or `app.group` that gets earlier results as first argument; checked when stored."""
        return Step(self, _NO_JOB_OPTIONS, args, kwargs)

    def options(self, **options: Unpack[JobOptionsArgs]) -> TaskWithOptions[P, R]:
        """The same task with options (see JobOptions) for the next enqueue; they never mix with the function's arguments."""
        return TaskWithOptions(self, job_options(options))


class SyncTask(Task[P, R]):
    """A registered plain `def`: run in a thread, or with `isolate="process"` in a child process; called, it just runs."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        """Run the function here and now; no queue, no Redis."""
        result: R = self._called(*args, **kwargs)
        return result


class TaskWithOptions(Generic[P, R]):
    """A task with the options of one enqueue."""

    def __init__(self, task: Task[P, R], options: JobOptions) -> None:
        self._task, self._options = task, options

    @property
    def task(self) -> Task[P, R]:
        """The task."""
        return self._task

    @property
    def given(self) -> JobOptions:
        """The options."""
        return self._options

    def __deepcopy__(self, _memo: Any) -> TaskWithOptions[P, R]:
        return self

    def options(self, **options: Unpack[JobOptionsArgs]) -> TaskWithOptions[P, R]:
        """The same task with further options; an option that is given again replaces the earlier one."""
        return TaskWithOptions(self._task, job_options(options, self._options))

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue`."""
        return await self._task.enqueuer.enqueue_call(self._task, self._options, args, kwargs)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """See `Task.enqueue_sync`."""
        return self._task.enqueuer.enqueue_call_sync(self._task, self._options, args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> PreparedCall[R]:
        """See `Task.call`."""
        request = self._task.enqueuer.request(self._task, self._options, args, kwargs)
        return PreparedCall(request, self._task, self._options, args, kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Step:
        """See `Task.step`."""
        return Step(self._task, self._options, args, kwargs)


class Registry:
    """The tasks of one app by name. Workers run nothing else, whatever a record says."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        # Queues that jobs are sent to besides their task's own, in priority order before those.
        self.further_queues: list[str] = []

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

    def check(self) -> None:
        """
        Make sure that every task can be served here; what the decorator could not see yet is seen now.

        Raises:
            ArgumentError: Names the task, and the argument whose annotation can't be served.
        """
        for task in self:
            _ = task.signature

    def queues(self) -> list[str]:
        """The further queues, and those of all tasks in the order of registration."""
        return list(dict.fromkeys([*self.further_queues, *(task.task_options.queue for task in self)]))


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
    elif _is_method(function):
        problem = "a method; decorate a function of the module, and give it what it needs as arguments"
    elif isolate and (inspect.iscoroutinefunction(function) or takes_context(function)):
        problem = "async, or takes a JobContext; isolate='process' runs a plain `def` without one"
    elif isolate and "<locals>" in function.__qualname__:
        problem = "a nested function; isolate='process' needs one that the child process can import"
    else:
        return
    raise TaskDefinitionError(f"{shown} can't be a task: it is {problem}")


def check_keys(function: Callable[..., Any], options: TaskOptions) -> None:
    """
    Refuse keys of arguments that the function doesn't have, in `unique`, `limit` and `fair_by`.

    Raises:
        UsageError: Also a TypeError; names the argument.
    """
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    wanted: list[tuple[str, Any]] = [("fair_by", options.fair_by)]
    wanted += [("limit", limit.key) for limit in options.limits]
    if options.unique is not None:
        wanted.append(("unique", options.unique.by))
    own = [name for at, name in enumerate(parameters) if at or not takes_context(function)]
    for what, key in wanted:
        if key is None:
            continue
        if callable(key):
            try:
                inspect.signature(key).bind(**dict.fromkeys(own))
            except TypeError as error:
                raise TaskDefinitionError(
                    f"{function.__qualname__}: {what}: the function of its key gets the task's arguments by name: {error}"
                ) from None
            except ValueError:  # a function without a signature, in C
                pass
            continue
        for name in [key] if isinstance(key, str) else key:
            if name not in own:
                has = ", ".join(own) or "none"
                raise TaskDefinitionError(f"{function.__qualname__}: {what} names the argument {name!r}; it has {has}")


def _is_method(function: Any) -> bool:
    """Whether it was written in a class: `self` would be missing from every call."""
    within = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
    first = next(iter(inspect.signature(function).parameters), "")
    return bool(within) and within != "<locals>" and first in ("self", "cls")


def takes_context(function: Callable[..., Any]) -> bool:
    """
    Whether the first parameter is a JobContext, by whatever name: an alias, `Annotated`, `type X = ...`, text.

    Raises:
        TaskDefinitionError: Another parameter is one, or it is only one of several types.
    """
    found = False
    for at, parameter in enumerate(inspect.signature(function).parameters.values()):
        kind = _resolved(parameter.annotation, function)
        if _is_context(kind):
            if at or parameter.kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY):
                raise TaskDefinitionError(
                    f"{function.__qualname__}: {parameter.name} is a JobContext; write it as the first parameter, by position"
                )
            found = True
        elif any(_is_context(part) for part in typing.get_args(kind)):
            raise TaskDefinitionError(
                f"{function.__qualname__}: {parameter.name} is a JobContext or something else; the worker always gives one, so "
                "write JobContext alone"
            )
    return found


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """What an annotation stands for; text whose names can't be found yet stays text."""
    space = getattr(inspect.unwrap(function), "__globals__", {})
    for _ in range(20):
        if isinstance(annotation, str):
            try:
                one = SimpleNamespace(__annotations__={"one": annotation})
                annotation = typing.get_type_hints(one, space, include_extras=True)["one"]
            except Exception:
                return annotation
        elif typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):  # type X = ...
            annotation = annotation.__value__
        elif hasattr(typing.get_origin(annotation), "__value__"):
            annotation = typing.get_origin(annotation).__value__
        else:
            break
    return annotation


def _is_context(kind: Any) -> bool:
    if isinstance(kind, str):
        return kind.split("[")[0].split(".")[-1] == "JobContext"
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, JobContext):
        if origin is not JobContext:
            raise TaskDefinitionError(
                f"{origin.__qualname__} is a subclass of JobContext; annotate JobContext[...] itself"
            )
        return True
    return False


def _mark_as_coroutine_function(task: Any) -> None:
    """Let code that asks whether to await a task (frameworks, mocks) get the right answer."""
    mark = getattr(inspect, "markcoroutinefunction", None)  # Python 3.12
    if mark is not None:
        mark(task)
    else:
        task._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def _task_at(module: str, qualname: str, name: str) -> Any:
    """Unpickle a task in another process: find the one that its module has."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Task) and found.name == name:
        return found
    for value in vars(sys.modules[module]).values():
        if isinstance(value, Task) and value.name == name:
            return value
    raise TaskDefinitionError(f"{module} has no task {name!r}; a task is pickled by the module that defines it")


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
