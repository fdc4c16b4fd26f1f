"""
Threads for jobs: a job that needs one has it to itself until the job ends, and what the app puts around is entered there.

A thread outlives its jobs, and what belongs to it (a database connection, say) with it. It ends after a while without work,
and then leaves what it entered at its start. All of this is decided in the event loop; a thread only does what it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..model.hooks import Hooks, SyncContext
from .lineage import end_fork, guard, is_fork

T = TypeVar("T")

_MISSING = object()

# A thread without work for this long ends.
IDLE_S = 60.0
# How often a thread looks whether its event loop is closed, so that it doesn't keep the interpreter from ending.
LOOK_S = 1.0
# What a thread leaves at the process's end has this long.
CLOSE_S = 2.0


class Lanes:
    """
    At most `total` threads. For one event loop, which makes it.

    Args:
        hooks: Their thread_lifespans are entered in each thread before its first job, and left at its end; their
            thread_contexts for each job.
    """

    def __init__(self, total: int, hooks: Hooks) -> None:
        self._total, self.hooks = total, hooks
        self.loop, self.owner = asyncio.get_running_loop(), threading.get_ident()
        # Of the worker, not of the job that happens to need a further thread.
        self._context = contextvars.copy_context()
        self._limiter = anyio.CapacityLimiter(total)
        self._lanes: dict[_Lane, asyncio.Task[None]] = {}
        self._free: list[_Lane] = []  # the one that was busy last is at the end, and is taken first
        self._waiting: deque[JobThread] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """How many threads have a job."""
        return len(self._lanes) - len(self._free)

    def want(self, job: JobThread) -> None:
        """Give a thread to a job, in turn."""
        if self._free:
            job.use(self._free.pop())
        elif len(self._lanes) < self._total:
            job.use(self._start())
        else:
            self._waiting.append(job)

    def forget(self, job: JobThread) -> None:
        """A job that waits needs no thread any more."""
        self._waiting.remove(job)

    def give_back(self, lane: _Lane) -> None:
        """A job has ended; the thread is the next one's."""
        if self._waiting:
            self._waiting.popleft().use(lane)
            return
        lane.idle_from = self.loop.time()
        self._free.append(lane)
        if self._closed:
            self._trim(0.0)
        elif self._timer is None:
            self._timer = self.loop.call_later(IDLE_S, self._look, context=self._context)

    def _start(self) -> _Lane:
        lane = _Lane(self)
        # A thread of anyio's, so that `anyio.from_thread` works in it.
        serving = anyio.to_thread.run_sync(lane.serve, limiter=self._limiter)
        self._lanes[lane] = self.loop.create_task(serving, name="tracked_queue-thread", context=self._context.copy())
        return lane

    def _look(self) -> None:
        self._timer = None
        self._trim(IDLE_S)
        if self._free:
            wait_s = self._free[0].idle_from + IDLE_S - self.loop.time()
            self._timer = self.loop.call_later(max(wait_s, 0.1), self._look, context=self._context)

    def _trim(self, idle_s: float) -> list[asyncio.Task[None]]:
        """End the free threads that had no work for this long."""
        limit = self.loop.time() - idle_s
        ended = [lane for lane in self._free if lane.idle_from <= limit]
        for lane in ended:
            self._free.remove(lane)
            lane.put(None)
        return [self._lanes.pop(lane) for lane in ended]

    async def close(self) -> None:
        """End the threads: the free ones now, and any other when its job ends."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if ending := self._trim(0.0):
            await asyncio.wait(ending, timeout=CLOSE_S)


class _Lane:
    """One thread. All but `put` and `idle_from` is used in it alone."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes, self._work = lanes, SimpleQueue[Callable[[], None] | None]()
        self._begun: contextlib.ExitStack | None = None
        self._own = contextvars.copy_context()
        self.idle_from = 0.0
        self.put = self._work.put

    def serve(self) -> None:
        """Do what is put here, until None comes or the event loop is gone."""
        while not self._lanes.loop.is_closed():
            try:
                work = self._work.get(timeout=LOOK_S)
            except Empty:
                continue
            if work is None:
                break
            work()
        if self._begun is not None:
            self._own.run(self._begun.close)

    def begin(self) -> None:
        """Enter the lifespans, once; if one raises, that is the job's error, and the next job tries again."""
        if self._begun is None and self._lanes.hooks.thread_lifespans:
            self._begun = self._own.run(entered, self._lanes.hooks.thread_lifespans)


def entered(contexts: Sequence[SyncContext]) -> contextlib.ExitStack:
    """All of these entered, or none."""
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        return stack.pop_all()


def outcome_of(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function returns, or raises, in a thread."""
    # What the function raises is carried by hand: asyncio lets SystemExit and KeyboardInterrupt of a second task through to the
    # whole loop.
    try:
        return function(), None
    except BaseException as error:
        if is_fork():
            end_fork(error)
        return None, error


guard(outcome_of)


class JobThread(Executor):
    """
    A thread for one job: see `CurrentJob.thread`. It is taken at the first use, and given back by `end`.

    What runs in it has the context variables that the job had at that moment, and keeps its own changes to them.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._lane: _Lane | None = None
        self._waits: deque[tuple[Future[Any], Callable[[], None]]] = deque()
        self._used = False
        self._ident = 0  # of the thread, once there is one
        self._last: Future[Any] | None = None
        self.ended = False
        self._at_first = contextvars.copy_context()
        # Used in the thread only.
        self._context = self._at_first.copy()
        self._stack: contextlib.ExitStack | None = None
        self._problem: BaseException | None = None

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """
        Call a function in the thread, after what was submitted before.

        Raises:
            RuntimeError: The job has ended.
        """
        if self.ended:
            raise RuntimeError("the job has ended, and its thread is another's")
        future: Future[T] = Future()
        if threading.get_ident() == self._ident:
            # By an event loop that the job itself runs in this thread: it would wait for ever for its turn.
            self._carry_out(future, partial(function, *args, **kwargs))
            return future
        work = partial(self._run, future, partial(function, *args, **kwargs))
        if threading.get_ident() == self._lanes.owner:
            self._put(future, work)
        else:
            self._lanes.loop.call_soon_threadsafe(self._put, future, work)
        return future

    @property
    def used(self) -> bool:
        """Whether it was asked to do something: until then the job has no thread."""
        return self._used

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing: the worker ends it with the job."""

    async def run(self, function: Callable[[], T]) -> T:
        """`call`, for a function that may raise anything."""
        value: T
        value, error = await self.call(partial(outcome_of, function))
        if error is not None:
            raise error
        return value

    async def call(self, function: Callable[[], T]) -> T:
        """Call it with the context variables of the caller. A cancel of the caller waits for the function's end."""
        if self._used:
            function = self._with_changes(function)
        else:
            self._at_first = contextvars.copy_context()
            self._context = self._at_first.copy()
        future = self.submit(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # A thread can't be stopped; what still waits for one never begins.
            if not future.cancelled():
                await asyncio.wait({asyncio.wrap_future(future)})
            raise

    def _with_changes(self, function: Callable[[], T]) -> Callable[[], T]:
        """It runs where the job's first use of the thread left off; what the job has set since is set there, too."""
        changed = [
            (variable, value)
            for variable, value in contextvars.copy_context().items()
            if self._at_first.get(variable, _MISSING) is not value
        ]

        def call() -> T:
            for variable, value in changed:
                variable.set(value)
            return function()

        return call

    async def end(self, error: BaseException | None) -> None:
        """
        Leave what was entered for the job, with its error if it raised, and give the thread back.

        Raises:
            Exception: Something that was entered raised while it was left: a commit that failed, say.
        """
        self.ended = True
        lane = self._lane
        if lane is None:
            if self._used:
                self._lanes.forget(self)
            for waiting, _ in self._waits:
                waiting.cancel()
            return
        last = self._last
        if not self._lanes.hooks.thread_contexts and last is not None and last.done() and not last.cancelled():
            self._lanes.give_back(lane)
            return
        future: Future[None] = Future()
        lane.put(partial(self._leave, future, error))
        left = asyncio.wrap_future(future)
        left.add_done_callback(lambda _: self._lanes.give_back(lane))
        try:
            await asyncio.shield(left)
        except asyncio.CancelledError:
            # What is entered is left all the same, and if that was a commit, it counts.
            await asyncio.wait({left})
            left.result()

    # In the event loop

    def _put(self, future: Future[Any], work: Callable[[], None]) -> None:
        if self.ended:
            future.cancel()
            return
        self._last = future
        if self._lane is not None:
            self._lane.put(work)
        else:
            self._waits.append((future, work))
            if not self._used:
                self._used = True
                self._lanes.want(self)

    def use(self, lane: _Lane) -> None:
        """Have this thread from now on."""
        self._lane = lane
        lane.put(partial(self._enter, lane))
        for _, work in self._waits:
            lane.put(work)
        self._waits.clear()

    # In the thread

    def _enter(self, lane: _Lane) -> None:
        self._ident = threading.get_ident()
        try:
            lane.begin()
            self._stack = self._context.run(entered, self._lanes.hooks.thread_contexts)
        except BaseException as problem:
            self._problem = problem

    def _run(self, future: Future[T], call: Callable[[], T]) -> None:
        if self._problem is None:
            self._context.run(self._carry_out, future, call)
        elif future.set_running_or_notify_cancel():
            future.set_exception(self._problem)

    def _carry_out(self, future: Future[T], call: Callable[[], T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            value = call()
        except BaseException as error:
            if is_fork():
                end_fork(error)
            if isinstance(error, Exception):
                future.set_exception(error)
                return
            # In a task of its own, a SystemExit would end the worker's event loop.
            wrapped = RuntimeError(f"{type(error).__qualname__} in the job's thread: {error}")
            wrapped.__cause__ = error
            future.set_exception(wrapped)
        else:
            future.set_result(value)

    def _leave(self, future: Future[None], error: BaseException | None) -> None:
        try:
            if self._stack is not None:
                kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
                self._context.run(self._stack.__exit__, kind, error, trace)
        except BaseException as raised:
            if raised is error:  # a context manager that only let it through
                future.set_result(None)
            else:
                future.set_exception(raised)
        else:
            future.set_result(None)


guard(JobThread._carry_out)
