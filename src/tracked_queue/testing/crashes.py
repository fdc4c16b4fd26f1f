"""Crashing a job at each of the points where it waits."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import sys
import types
from collections.abc import Awaitable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.context import CurrentJob
from ..model.hooks import CallNext, RunMiddleware
from ..model.task import PreparedCall
from ..worker.outcome import Cause

_OURS = str(Path(__file__).parent.parent)
_LIBRARY = (str(Path(asyncio.__file__).parent.parent), "site-packages", "dist-packages")


@dataclass(slots=True, repr=False)
class Crash:
    """
    One point at which a job was crashed.

    Args:
        point: 0 is before the job started; from 1 on it had begun to wait so many times.
        where: The line of your code that waited; '' for the first and the last point.
        is_last: The function had returned or raised, and that was not recorded.
        reached: The job was there, and got so far; always so.
    """

    point: int
    where: str = ""
    is_last: bool = False
    reached: bool = False

    # As pytest shows it beside an assertion.
    def __repr__(self) -> str:
        if self.is_last:
            return "crashed after the job had returned, before that was recorded"
        return f"crashed at point {self.point}: {self.where}" if self.point else "crashed before the job started"


# The run that belongs to this task, and to the tasks that it starts.
_run: ContextVar[_Run | None] = ContextVar("tracked_queue_crashing_run", default=None)


class _Run:
    """A job that is to crash: what it has started stops with it."""

    def __init__(self, crash: Crash) -> None:
        self.crash, self.waits, self.crashed = crash, 0, False


def new_job_of(call: PreparedCall[Any]) -> PreparedCall[Any]:
    """The same call as another job, also where it has an id of its own."""
    if call.options.id is None:
        return call
    options = dataclasses.replace(call.options, id=None, known_for=None)
    request = call.task.enqueuer.request(call.task, options, call.args, call.kwargs)
    return PreparedCall(request, call.task, options, call.args, call.kwargs)


def crashing(crash: Crash, job_id: str, is_async: bool) -> RunMiddleware:
    """A middleware that abandons the job as it waits for the time that `crash.point` says; a plain function after its end."""

    async def crashes(job: CurrentJob, call_next: CallNext) -> Any:
        if job.id != job_id:
            return await call_next()
        if not is_async:
            crash.reached = crash.is_last = True
            return await call_next()
        run = _Run(crash)
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(_factory(before))
        token = _run.set(run)
        try:
            value = await _driven(call_next(), run, main=True)
        except BaseException:
            crash.is_last = crash.reached = True  # it has ended, in its way
            raise
        finally:
            _run.reset(token)
            loop.set_task_factory(before)
        run.crash.reached = True
        if run.crashed:
            job._delivery.cause = Cause.SHUTDOWN  # type: ignore[attr-defined]  # no hook of the app hears of it
            raise asyncio.CancelledError
        crash.is_last = True
        return value

    return crashes


def _factory(before: Any) -> Any:
    """Tasks that a crashing job starts crash with it."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        context = options.get("context")
        run = _run.get() if context is None else context.get(_run)
        if run is not None and asyncio.iscoroutine(work):
            work = _child(work, run)
        return asyncio.Task(work, loop=loop, **options) if before is None else before(loop, work, **options)

    return make


async def _child(work: Any, run: _Run) -> Any:
    return await _driven(work, run, main=False)


@types.coroutine
def _driven(work: Awaitable[Any], run: _Run, *, main: bool) -> Generator[Any, Any, Any]:
    """Carry a coroutine up to the crash, step by step. After that nothing of it runs any more, not even its `finally`s."""
    steps = work.__await__()
    value: Any = None
    error: BaseException | None = None
    while True:
        if run.crashed:
            _keep(steps, work)
            if main:
                return None
            while True:  # until its event loop ends
                try:
                    yield asyncio.get_running_loop().create_future()
                except BaseException:
                    return None
        # Generators that it begins are not the event loop's, which would close them at its end.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_finalizer(hooks.finalizer, run))
        try:
            waited = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as done:
            return done.value
        finally:
            sys.set_asyncgen_hooks(*hooks)
        if main:
            run.waits += 1
            if run.waits == run.crash.point:
                run.crashed = True
                run.crash.where = _place_of(work)
                if hasattr(waited, "_asyncio_future_blocking"):
                    waited._asyncio_future_blocking = False
                continue
        value = error = None
        try:
            value = yield waited
        except BaseException as raised:
            error = raised


def _finalizer(close: Any, run: _Run) -> Any:
    """Closes a generator that was let go of, as the event loop does, but after the crash."""
    return None if close is None else lambda generator: None if run.crashed else close(generator)


def _keep(*parts: Any) -> None:
    """Never let go of a frame: a coroutine that is collected is closed, and runs its `finally`s."""
    for part in parts:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))


def _place_of(work: Any) -> str:
    """The innermost line of the user's own code that waits."""
    found, seen = "", 0
    while work is not None and seen < 1000:
        frame = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None) or getattr(work, "ag_frame", None)
        if frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith(_OURS) and not any(part in name for part in _LIBRARY):
                found = f"{Path(name).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        following = None
        for attribute in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = following or getattr(work, attribute, None)
        work, seen = following, seen + 1
    return found
