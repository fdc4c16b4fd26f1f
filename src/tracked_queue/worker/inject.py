"""Making what a job depends on, and leaving it when the job's function has returned, before its outcome is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from ..model.context import CurrentJob, JobContext, current
from ..model.dependencies import Marker, Source, needs_of
from ..model.hooks import Hooks
from .lanes import JobThread

# Runs a plain function, in a thread.
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Shared:
    """What is made once for a process. One task enters all of it and leaves it, so that it may hold task groups and scopes."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._made: dict[Any, asyncio.Future[Any]] = {}
        self._wanted: asyncio.Queue[tuple[Marker, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._owner: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()  # of the worker, not of the job that is the first

    async def value(self, marker: Marker) -> Any:
        """The value, made by the first job that wants it; if that raises, the next one tries again."""
        call = self._hooks.overrides.get(marker.dependency, marker.dependency)  # type: ignore[arg-type]
        made = self._made.get(call)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            loop = asyncio.get_running_loop()
            made = self._made[call] = loop.create_future()
            made.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
            if self._owner is None:
                self._owner = loop.create_task(
                    self._own(), name="tracked_queue-shared-dependencies", context=self._context
                )
            self._wanted.put_nowait((marker, made))
        return await asyncio.shield(made)

    async def close(self) -> None:
        """Leave all of it, the last first. Raises what a dependency raises."""
        if self._owner is not None:
            self._wanted.put_nowait(None)
            owner, self._owner = self._owner, None
            await owner

    async def _own(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            scope = Scope(stack, self._hooks, None, asyncio.to_thread)
            while (wanted := await self._wanted.get()) is not None:
                marker, made = wanted
                try:
                    value = await scope.value(marker)
                except BaseException as error:
                    if not made.done():
                        made.set_exception(error)
                    if not isinstance(error, Exception):
                        raise
                else:
                    if not made.done():
                        made.set_result(value)


class Scope:
    """
    The values of one job, or those that a process shares.

    Args:
        stack: What has to be left is entered there.
        shared: Where values for the whole process come from; None for that place itself.
        in_thread: Runs plain functions.
    """

    def __init__(
        self, stack: contextlib.AsyncExitStack, hooks: Hooks, shared: Shared | None, in_thread: InThread
    ) -> None:
        self._stack, self._hooks, self._shared, self._in_thread = stack, hooks, shared, in_thread
        self._values: dict[Any, Any] = {}

    async def value(self, marker: Marker) -> Any:
        """What a marked parameter gets."""
        if marker.shared and self._shared is not None:
            return await self._shared.value(marker)
        call = self._hooks.overrides.get(marker.dependency, marker.dependency)  # type: ignore[arg-type]
        assert call is not None
        if marker.use_cache and call in self._values:
            return self._values[call]
        arguments = {name: await self._need(need) for name, need in needs_of(call).needs}
        made = await self._make(call, arguments)
        if marker.use_cache:
            self._values[call] = made
        return made

    async def _need(self, need: Marker | Source) -> Any:
        if isinstance(need, Marker):
            return await self.value(need)
        job = current.get()
        return job if need is Source.JOB else JobContext(job, job.state if job else None)

    async def _make(self, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        of = call
        while isinstance(of, functools.partial):
            of = of.func
        if not (inspect.isfunction(of) or inspect.ismethod(of) or inspect.isclass(of)):
            of = type(of).__call__
        if inspect.isasyncgenfunction(of):
            return await self._stack.enter_async_context(contextlib.asynccontextmanager(call)(**arguments))
        if inspect.iscoroutinefunction(of):
            return await call(**arguments)
        if inspect.isgeneratorfunction(of):
            manager = contextlib.contextmanager(call)(**arguments)
            entered = await self._in_thread(manager.__enter__)
            self._stack.push_async_exit(partial(_left, manager, self._in_thread))
            return entered
        made = await self._in_thread(partial(call, **arguments))
        return await made if inspect.isawaitable(made) else made


async def _left(manager: Any, in_thread: InThread, kind: Any, error: Any, trace: Any) -> Any:
    return await in_thread(partial(manager.__exit__, kind, error, trace))


async def call_with(
    needs: Mapping[str, Marker], hooks: Hooks, shared: Shared, call: Callable[[dict[str, Any]], Awaitable[Any]]
) -> Any:
    """
    Call a task's function with what it depends on.

    What the function raises passes through the dependencies, and is the job's error whatever they do about it: one that
    swallows errors does not make a failed job succeed. What they raise as they are left is the job's error, too.
    """
    job = current.get()
    assert isinstance(job, CurrentJob)
    raised: BaseException | None = None
    value = None
    async with contextlib.AsyncExitStack() as stack:
        scope = Scope(stack, hooks, shared, partial(_in_job_thread, job))
        made = {name: await scope.value(marker) for name, marker in needs.items()}
        try:
            value = await call(made)
        except BaseException as error:
            raised = error
            raise
    if raised is not None:
        raise raised
    return value


async def _in_job_thread(job: CurrentJob, function: Callable[[], Any]) -> Any:
    thread = job.thread
    assert isinstance(thread, JobThread)
    return await thread.run(function)
