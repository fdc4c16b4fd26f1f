"""Calling a task's function: as a coroutine, in a thread, in a child process, with the app's middleware around it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from ..errors import IsolatedError
from ..model.codec import decode_error, encode_any
from ..model.context import CurrentJob, JobContext, current
from ..model.hooks import Hooks, chained
from ..model.retry import Dead, Discard, Retry, Signal, Snooze
from ..model.task import Task
from .inject import Shared, call_with
from .lanes import JobThread
from .processes import ProcessPool

Invoke = Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[Any]]


def invoker(task: Task[..., Any], hooks: Hooks, processes: ProcessPool, shared: Shared) -> Invoke:
    """How the runner calls a task, with everything that is around it; made once for each task."""
    call = _call(task, hooks, processes)
    if task.takes_context:
        call = _with_context(call)
    if task.dependencies:
        call = _with_dependencies(call, task, hooks, shared)
    return _with_middleware(call, hooks) if hooks.run else call


def _call(task: Task[..., Any], hooks: Hooks, processes: ProcessPool) -> Invoke:
    function = task.function
    if task.task_options.isolate == "process":
        return _in_process(task, hooks, processes)
    if task.is_async:
        return lambda args, kwargs: function(*args, **kwargs)

    async def in_thread(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        job = current.get()
        assert job is not None
        thread = job.thread
        assert isinstance(thread, JobThread)
        value = await thread.run(partial(function, *args, **kwargs))
        # A plain function around an `async def`, as many decorators are, returns what has still to be awaited.
        return await value if inspect.isawaitable(value) else value

    return in_thread


def _in_process(task: Task[..., Any], hooks: Hooks, processes: ProcessPool) -> Invoke:
    module, name = task.function.__module__, task.function.__qualname__
    script = str(getattr(sys.modules["__main__"], "__file__", "")) if module == "__main__" else ""
    function = (module, script, name)

    async def in_process(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        packed = task.signature.encode(args, kwargs, 2**62)
        call = (task.name, function, *packed, _plain(hooks.carried()), _facts(), _about())
        kind, data, kinds, seconds = await processes.run(task.name, call)
        if kind and not kinds:
            raise _signal(kind, data.decode(), seconds)
        if kind:
            found = decode_error(data)
            raise IsolatedError(f"{kind}: {found.message}" if found else kind, data, frozenset(kinds))
        return task.signature.result.decode(data)

    return in_process


def _plain(carried: Mapping[str, Any]) -> dict[str, Any]:
    """The part that is plain data, as everything that came with a job is; middleware may have set other things here."""
    found = {}
    for name, value in carried.items():
        with contextlib.suppress(TypeError):
            encode_any(value)
            found[name] = value
    return found


def _facts() -> dict[str, Any]:
    """What the child's log lines say of the job."""
    job = current.get()
    return {} if job is None else {"task": job.task, "job_id": job.id, "delivery": job.fence, "lease": job.lease}


def _about() -> tuple[Any, ...] | None:
    """See isolated.About."""
    job = current.get()
    if job is None:
        return None
    return job.id, job.queue, job.lease, job.attempt, job.max_attempts, _plain(job.headers)


def _signal(kind: str, reason: str, seconds: float | None) -> Signal:
    match kind:
        case "Retry":
            return Retry(seconds, reason)
        case "Snooze":
            return Snooze(seconds or 0.0, reason)
        case "Discard":
            return Discard(reason)
    return Dead(reason)


def _with_dependencies(call: Invoke, task: Task[..., Any], hooks: Hooks, shared: Shared) -> Invoke:
    def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any]:
        return call_with(task.dependencies, hooks, shared, lambda made: call(args, {**kwargs, **made}), task.is_async)

    return called


def _with_context(call: Invoke) -> Invoke:
    def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any]:
        job = current.get()
        return call((JobContext(job, job.state if job else None), *args), kwargs)

    return called


def _with_middleware(call: Invoke, hooks: Hooks) -> Invoke:
    def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any]:
        job = current.get()
        assert isinstance(job, CurrentJob)
        return _run_through(hooks, job, lambda: call(args, kwargs))

    return called


async def _run_through(hooks: Hooks, job: CurrentJob, call: Callable[[], Awaitable[Any]]) -> Any:
    """Run a job through the middleware; one that calls `call_next()` without awaiting it would let a job succeed unrun."""
    asked = begun = False

    def innermost() -> Awaitable[Any]:
        nonlocal asked
        asked = True
        return run()

    async def run() -> Any:
        nonlocal begun
        begun = True
        return await call()

    value = await chained(hooks.run, job, innermost)
    if asked and not begun:
        raise TypeError("a middleware called call_next() and did not await it, so the job's function never ran")
    return value
