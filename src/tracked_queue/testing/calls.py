"""Calling a task as a worker does, with no job stored anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any

from ..app import TrackedQueue, producer_of
from ..errors import UsageError
from ..model.checks import check_whole
from ..model.codec import encode_any
from ..model.context import CurrentJob, current
from ..model.hooks import Hooks
from ..model.task import PreparedCall, Task
from ..protocol.transitions import NoteKind
from ..worker.invoke import invoker
from ..worker.isolated import setup_of
from ..worker.lanes import JobThread
from ..worker.runner import Pools


@contextlib.asynccontextmanager
async def lifespan(hooks: Hooks) -> AsyncIterator[Any]:
    """The app's lifespan, and the state that it yields; None without one."""
    if hooks.lifespan is None:
        yield None
    else:
        async with hooks.lifespan() as state:
            yield state


async def call_of(
    app: TrackedQueue, task: Task[..., Any], args: Any, kwargs: Any, job_id: str, queue: str, state: Any = None,
    headers: Any = MappingProxyType({}), attempt: int = 1, saved: bytes = b"", max_attempts: int | None = None,
) -> Any:  # fmt: skip
    """The value of a task's function, called with what the app puts around it."""
    producer = producer_of(app)
    hooks = producer.definitions.hooks
    pools = Pools(
        app.settings, hooks, setup_of(app, producer.connections.child_settings(app.settings), producer.definitions.home)
    )
    host = _Host(state, app.settings.max_payload, pools)
    delivery = _Delivery(job_id, task.name, queue, headers)
    delivery.attempt, delivery.max_attempts = attempt, max_attempts or task.task_options.max_attempts
    delivery.checkpoint = saved
    token = current.set(CurrentJob(delivery, host))
    try:
        async with host:
            return await invoker(task, hooks, pools.processes, pools.shared)(args, kwargs)
    finally:
        await pools.close()
        current.reset(token)


async def perform(app: TrackedQueue, call: PreparedCall[Any], *, attempt: int = 1, saved: Any = None) -> Any:
    """See QueueKit.run."""
    if not isinstance(call, PreparedCall) or call.task is None or call.task.enqueuer is not producer_of(app):
        raise UsageError(f"run: {call!r} is not a call of a task of this app: write task.call(...)")
    check_whole("run: attempt", attempt)
    task, request, options = call.task, call.request, call.options
    cipher = producer_of(app).connections.cipher
    args, kwargs = task.signature.decode(cipher.open(request.args), cipher.open(request.kwargs))
    packed = b"" if saved is None else encode_any(saved)
    async with lifespan(producer_of(app).definitions.hooks) as state:
        value = await call_of(
            app, task, args, kwargs, request.id, request.queue, state, dict(options.headers or {}), attempt, packed,
            options.max_attempts,
        )  # fmt: skip
    return None if value is None else task.signature.result.decode(task.signature.result.encode(value))


class _Delivery:
    """A delivery that no worker made."""

    attempt, max_attempts, number = 1, 1, 1
    interruptions = recoveries = 0
    tick_ms: int | None = None

    def __init__(self, id: str, task_name: str, queue: str, headers: Any) -> None:
        self.id, self.task_name, self.queue, self.headers = id, task_name, queue, headers
        self.checkpoint = b""


class _Host:
    """An instance that keeps what a job notes in memory."""

    lease = "inline"

    def __init__(self, state: Any, max_payload: int, pools: Pools) -> None:
        self.state, self.max_payload = state, max_payload
        self._lanes = pools.lanes
        self._thread: JobThread | None = None

    async def note(self, delivery: Any, kind: NoteKind, value: bytes) -> None:
        if kind is NoteKind.CHECKPOINT:
            delivery.checkpoint = value

    def opened(self, data: bytes) -> bytes:
        return data

    def extend(self, delivery: Any, seconds: float) -> None:
        pass

    def waits(self, delivery: Any, more: int) -> None:
        pass

    def thread(self, delivery: Any) -> JobThread:
        self._thread = self._thread or JobThread(self._lanes)
        return self._thread

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._thread is not None:
            await self._thread.end(error)
