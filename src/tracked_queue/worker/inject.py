"""Making what a job depends on, and leaving it when the job's function has returned, before its outcome is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio.to_thread

from ..errors import TaskDefinitionError
from ..model.context import CurrentJob, JobContext, current
from ..model.dependencies import Marker, Source, needs_of
from ..model.hooks import Hooks
from .lanes import JobThread, outcome_of

# Leaves what was made, with the error that ends its use, if there is one.
Exit = Callable[[BaseException | None], Awaitable[None]]
# Runs a plain function in a thread.
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Exits:
    """What has to be left, the last first. An error never gets lost on the way, whatever is done about it in between."""

    def __init__(self) -> None:
        self._exits: list[Exit] = []

    def push(self, leave: Exit) -> None:
        """Something was made."""
        self._exits.append(leave)

    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave all of it, and return the error that counts: the one given, or what the leaving has raised after it."""
        while self._exits:
            try:
                await self._exits.pop()(error)
            except BaseException as raised:
                error = raised
        return error


class Shared:
    """
    What is made once for a process. A task for each value enters it and leaves it, so that it may hold task groups and scopes,
    and so that one that hangs or fails is nobody else's trouble.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._owned: dict[Any, _Owned] = {}
        self._order: list[_Owned] = []
        self._context = contextvars.copy_context()  # of the worker, not of the job that is the first

    async def value(self, marker: Marker) -> Any:
        """
        The value, made for the first job that wants it. If that raises, or all who wait for it have gone, the next one tries
        again.
        """
        call = self._hooks.overridden(marker.dependency)
        owned = self._owned.get(call)
        if owned is None or owned.failed:
            owned = self._owned[call] = _Owned(self, call)
        owned.waiters += 1
        try:
            return await asyncio.shield(owned.value)
        except asyncio.CancelledError:
            if owned.waiters == 1 and not owned.value.done() and self._owned.get(call) is owned:
                del self._owned[call]
                owned.task.cancel()
            raise
        finally:
            owned.waiters -= 1

    def make(self, owned: _Owned) -> asyncio.Task[None]:
        """Start the task that owns a value."""
        loop = asyncio.get_running_loop()
        return loop.create_task(self._own(owned), name="tracked_queue-shared-dependency", context=self._context.copy())

    async def close(self) -> None:
        """Leave all of it, the last first. Raises the first error that leaving one has raised, when all are left."""
        errors = []
        while self._order:
            owned = self._order.pop()
            owned.over.set()
            errors += [error for error in await asyncio.gather(owned.task, return_exceptions=True) if error is not None]
        self._owned.clear()
        if errors:
            raise errors[0]

    async def _own(self, owned: _Owned) -> None:
        exits, thread = Exits(), ThreadPoolExecutor(1, "tracked_queue-shared")

        async def in_thread(function: Callable[[], Any]) -> Any:
            value, error = await asyncio.get_running_loop().run_in_executor(thread, partial(outcome_of, function))
            if error is not None:
                raise error
            return value

        try:
            scope = Scope(exits, self._hooks, None, in_thread, in_thread, shared_by=self)
            try:
                value = await scope.made(owned.call)
            except BaseException as error:
                error = await exits.leave(error) or error
                if not owned.value.done():
                    owned.value.set_exception(
                        RuntimeError("it raised a StopIteration") if isinstance(error, StopIteration) else error
                    )
                return
            owned.value.set_result(value)
            self._order.append(owned)
            await owned.over.wait()
            if (raised := await exits.leave(None)) is not None:
                raise raised
        finally:
            thread.shutdown(wait=False)


class _Owned:
    """One shared value."""

    def __init__(self, shared: Shared, call: Callable[..., Any]) -> None:
        self.call, self.waiters, self.over = call, 0, asyncio.Event()
        self.value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.value.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
        self.task = shared.make(self)

    @property
    def failed(self) -> bool:
        """Whether it could not be made."""
        return self.value.done() and (self.value.cancelled() or self.value.exception() is not None)


class Scope:
    """
    The values of one job, or one that a process shares.

    Args:
        exits: What has to be left.
        shared: Where values for the whole process come from; None within such a value.
        in_thread: Runs plain functions.
        in_own_thread: Runs what has to be left in the thread in which it was entered.
        shared_by: Within a shared value, who shares it.
    """

    def __init__(
        self,
        exits: Exits,
        hooks: Hooks,
        shared: Shared | None,
        in_thread: InThread,
        in_own_thread: InThread,
        shared_by: Shared | None = None,
    ) -> None:
        self._exits, self._hooks, self._shared = exits, hooks, shared or shared_by
        self._in_thread, self._in_own_thread, self._for_process = in_thread, in_own_thread, shared_by is not None
        self._values: dict[Any, Any] = {}

    async def value(self, marker: Marker) -> Any:
        """What a marked parameter gets."""
        if marker.shared:
            assert self._shared is not None
            return await self._shared.value(marker)
        call = self._hooks.overridden(marker.dependency)
        if marker.use_cache and call in self._values:
            return self._values[call]
        value = await self.made(call)
        if marker.use_cache:
            self._values[call] = value
        return value

    async def made(self, call: Callable[..., Any]) -> Any:
        """What a function makes; with what has to be left noted."""
        arguments = {name: await self._need(call, name, need) for name, need in needs_of(call).needs}
        of = unwrapped(call)
        if inspect.iscoroutinefunction(of) or inspect.isasyncgenfunction(of) or inspect.isgeneratorfunction(of):
            value = call(**arguments)
        else:
            value = await self._in_thread(partial(call, **arguments))
        if inspect.isawaitable(value):
            value = await value
        if inspect.isasyncgen(value):
            return await self._entered(value)
        if inspect.isgenerator(value):
            return await self._entered_in_thread(value)
        return value

    async def _need(self, call: Callable[..., Any], name: str, need: Marker | Source) -> Any:
        if isinstance(need, Marker):
            return await self.value(need)
        if self._for_process:
            raise TaskDefinitionError(f"{call!r} is shared, so there is no job for its {name}")
        job = current.get()
        return job if need is Source.JOB else JobContext(job, job.state if job else None)

    async def _entered(self, generator: Any) -> Any:
        manager = contextlib.asynccontextmanager(lambda: generator)()

        async def leave(error: BaseException | None) -> None:
            await manager.__aexit__(*_facts_of(error))

        value = await manager.__aenter__()
        self._exits.push(leave)
        return value

    async def _entered_in_thread(self, generator: Any) -> Any:
        manager = contextlib.contextmanager(lambda: generator)()

        async def leave(error: BaseException | None) -> None:
            await _surely(self._in_own_thread(partial(manager.__exit__, *_facts_of(error))))

        def enter() -> Any:
            value = manager.__enter__()
            self._exits.push(leave)  # also if nobody waits for it any more
            return value

        return await _surely(self._in_own_thread(enter))


def unwrapped(call: Any) -> Any:
    """The function behind partials and decorators; of an object that can be called, its `__call__`."""
    while True:
        if isinstance(call, functools.partial):
            call = call.func
        elif hasattr(call, "__wrapped__") and not inspect.isclass(call):
            call = call.__wrapped__
        elif inspect.isroutine(call) or inspect.isclass(call):
            return call
        else:
            call = type(call).__call__


def _facts_of(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


async def _surely(work: Awaitable[Any]) -> Any:
    """Its end is waited for, also when the job is cancelled meanwhile: what was entered in a thread is left there."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.done():
            raise
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise


async def call_with(
    needs: Mapping[str, Marker],
    hooks: Hooks,
    shared: Shared,
    call: Callable[[dict[str, Any]], Awaitable[Any]],
    is_async: bool,
) -> Any:
    """
    Call a task's function with what it depends on.

    What is raised, by the function, by what is made for it or as that is left, is the job's error, whatever a dependency does
    about it: one that swallows errors does not make a failed job succeed.
    """
    job = current.get()
    assert isinstance(job, CurrentJob)
    exits = Exits()
    own = partial(_in_job_thread, job)
    # A job with a thread of its own makes everything there; another one gives a thread back after each call.
    in_thread = own if not is_async or hooks.thread_contexts or hooks.thread_lifespans else _in_some_thread
    scope = Scope(exits, hooks, shared, in_thread, own)
    error: BaseException | None = None
    value = None
    try:
        made = {name: await scope.value(marker) for name, marker in needs.items()}
        value = await call(made)
    except BaseException as raised:
        error = raised
    error = await exits.leave(error)
    if error is not None:
        try:
            raise error
        finally:
            error = None  # no cycle of a frame and its error, which would keep all of it
    return value


async def _in_job_thread(job: CurrentJob, function: Callable[[], Any]) -> Any:
    thread = job.thread
    assert isinstance(thread, JobThread)
    return await thread.run(function)


async def _in_some_thread(function: Callable[[], Any]) -> Any:
    value, error = await anyio.to_thread.run_sync(partial(outcome_of, function))
    if error is not None:
        raise error
    return value
