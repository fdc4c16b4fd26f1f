"""
Testing code that uses tracked_queue: run what was enqueued, or only record it, on a real embedded Redis and a clock of the
test's own.

pytest finds the fixture `queue_kit` by itself (see pytest_plugin.py); in other runners use `QueueKit` as it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import Any

from .app import TrackedQueue, producer_of
from .errors import JobCancelledError, JobFailedError, TrackedQueueError, UsageError, did_you_mean
from .model.checks import check_flag, check_whole, to_seconds
from .model.codec import NIL, decode_error, packed_list
from .model.context import CurrentJob, current
from .model.hooks import Enqueueing, Hooks, run_now
from .model.inputs import Results
from .model.job import Job, JobReader
from .model.options import JobOptions
from .model.record import JobInfo
from .model.retry import Dead, Discard, Retry, Signal, Snooze, meant_by
from .model.task import Task
from .protocol.states import State
from .protocol.text import to_text
from .protocol.transitions import (
    End,
    Fetched,
    FetchedJob,
    NoteKind,
    Outcome,
    OutcomeKind,
    PortionWord,
    enqueue,
    fetch,
    recover,
    register,
    release,
    schedule,
)
from .reports.dead import DeadFilter, read_dead
from .settings import Seconds
from .transport.embedded import start_embedded
from .worker.invoke import invoker
from .worker.isolated import setup_of
from .worker.lanes import JobThread
from .worker.late_limits import Binder
from .worker.runner import Pools, Runner
from .worker.slots import Slots

_number = itertools.count()


@cache
def embedded_url() -> str:
    """The Redis of this process' tests: one embedded server in a temporary folder, started once; it ends with the process."""
    folder = tempfile.mkdtemp(prefix="tracked_queue-test-")
    server = start_embedded(f"embedded://{folder}")
    _servers.append(server)
    return server.url


_servers: list[Any] = []  # kept open for the life of the process


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One enqueue that `fake()` recorded."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: JobOptions


@dataclass(slots=True)
class Fake:
    """What `fake()` yields: the enqueues that were made, none of which was stored."""

    calls: list[Recorded] = field(default_factory=list)
    app: TrackedQueue | None = None

    def _named(self, task: Task[..., Any] | str) -> str:
        name = task.name if isinstance(task, Task) else task
        if not isinstance(name, str):
            raise UsageError(f"{task!r} is a {type(task).__qualname__}; give a task, or its name")
        return name

    def _bound(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The arguments by name, so that a call by position is the same as one by name."""
        task = None if self.app is None else self.app.tasks.get(name)
        try:
            return (args, kwargs) if task is None else task.signature.bind(args, kwargs)
        except TrackedQueueError:
            return args, kwargs

    def assert_enqueued(self, task: Task[..., Any] | str, *args: Any, **kwargs: Any) -> Recorded:
        """The first recorded call of a task, with these arguments if some are given. Raises AssertionError."""
        name = self._named(task)
        found = [call for call in self.calls if call.task == name]
        wanted = self._bound(name, args, kwargs)
        for call in found:
            if (not args and not kwargs) or self._bound(name, call.args, call.kwargs) == wanted:
                return call
        shown = ", ".join(f"{call.args!r} {call.kwargs!r}" for call in found) or "none"
        raise AssertionError(f"no enqueue of {name} with {args!r} {kwargs!r}; its enqueues: {shown}")

    def assert_not_enqueued(self, task: Task[..., Any] | str) -> None:
        """Raises AssertionError if there was one, and UsageError for a name that is not one of the app's tasks."""
        name = self._named(task)
        if self.app is not None and self.app.tasks.get(name) is None:
            known = [known.name for known in self.app.tasks]
            raise UsageError(f"task {name!r}: this app has none of that name; {did_you_mean(name, known)}")
        found = [call for call in self.calls if call.task == name]
        assert not found, f"{len(found)} enqueues of {name}: {found}"


_NOT_OPEN = "this app is under test: open the kit first, as `async with queue_kit as kit:`, or take `run_queue_test`"


def _raise_first(errors: list[BaseException], ended: list[JobFailedError]) -> None:
    """The first error of a drain, with a note for each other one."""
    if not errors and not ended:
        return
    first = errors[0] if errors else ended[0]
    for other in errors[1:]:
        first.add_note(f"another job raised {type(other).__qualname__}: {other}")
    raise first


# By app, which lives as long as its kit; a kit that is no longer referenced frees its app.
_kits: weakref.WeakValueDictionary[TrackedQueue, QueueKit] = weakref.WeakValueDictionary()


class QueueKit:
    """
    An app in a namespace of its own on the embedded Redis, for the time of an `async with`.

    While the kit exists the app uses no other Redis: a test that forgets to open the kit gets an error saying so.

    Args:
        app: The app under test; its settings are put back at the end.
        start: What the clock says at the beginning, a datetime with a timezone; default: now. A test of schedules gives one, so
            that it has the same result each time.
    """

    def __init__(self, app: TrackedQueue, start: datetime | None = None) -> None:
        if not isinstance(app, TrackedQueue):
            raise UsageError(f"QueueKit: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
        if start is not None and (not isinstance(start, datetime) or start.tzinfo is None):
            raise UsageError(f"QueueKit: start={start!r}: it must be a datetime with a timezone")
        self.app, self._start = app, start
        self._producer = producer_of(app)
        self._connections = self._producer.connections
        self._settings = app.settings
        self._last_ms: dict[str, int] = {}
        self._open = False
        self._take_app()
        self._connections.closed_for = self._connections.closed_for or _NOT_OPEN

    def _take_app(self) -> None:
        """An app is under test by one kit at a time. Raises UsageError."""
        if _kits.setdefault(self.app, self) is not self:
            raise UsageError(
                "QueueKit: this app has a kit already; use that one (the fixture `queue_kit` is one), or close it first"
            )

    def _let_app_go(self) -> None:
        if self._connections.closed_for == _NOT_OPEN:
            self._connections.closed_for = ""
        if _kits.get(self.app) is self:
            del _kits[self.app]

    def close_unopened(self) -> None:
        """The test is over and never opened the kit: give the app back as it was."""
        if not self._open:
            self._let_app_go()

    async def __aenter__(self) -> QueueKit:
        if self._open:
            raise UsageError("QueueKit: it is open already")
        self._take_app()
        if self._connections.closed_for == _NOT_OPEN:
            self._connections.closed_for = ""
        self._open = True
        try:
            await self._move_app()
        except BaseException:
            await self._move_back()
            raise
        return self

    async def _move_app(self) -> None:
        await self.app.aclose()
        settings = replace(
            self._settings,
            redis_url=await asyncio.to_thread(embedded_url),
            namespace=f"test{os.getpid()}-{next(_number)}",
            shards=1,
            sources={},
        )
        self._connections.use(settings, "now_ms_test")
        self._keys = self._connections.keys
        start_s = time.time() if self._start is None else self._start.timestamp()
        await self._set_clock(int(start_s * 1000))
        await self._tell_schedules()

    async def _move_back(self) -> None:
        self._open = False
        try:
            await self.app.aclose()
        finally:
            self._connections.use(self._settings)
            self._let_app_go()

    async def __aexit__(self, *_: object) -> None:
        try:
            store = self._connections.store
            (found,) = await store.read(("KEYS", self._keys.tag.replace("{", "[{]") + ":*"))
            if found:
                await store.read(("DEL", *found))
        finally:
            await self._move_back()

    async def _set_clock(self, ms: int) -> None:
        await self._connections.store.read(("SET", self._keys.moved_clock, ms))

    async def now_ms(self) -> int:
        """The clock that the scripts obey."""
        self._must_be_open()
        (value,) = await self._connections.store.read(("GET", self._keys.moved_clock))
        return int(value)

    async def advance(self, by: Seconds | None = None, **parts: float) -> None:
        """
        Move the clock: `advance(90)`, `advance(timedelta(hours=1))`, `advance(days=3)`. Nothing runs until `drain`.

        Schedules tick on the way, each tick at its time, as with a worker that is there; a tick is left out while the job of an
        earlier one still waits, unless the schedule says `missed="all"`.
        """
        self._must_be_open()
        if (by is None) == (not parts):
            raise UsageError("advance: give seconds, a timedelta, or parts such as days=3")
        try:
            wanted = timedelta(**parts) if by is None else by
        except (TypeError, OverflowError, ValueError) as error:
            raise UsageError(f"advance: {error}") from None
        seconds = to_seconds("advance", wanted)
        until_ms = await self.now_ms() + round(seconds * 1000)
        await self._tell_schedules()  # one that was defined meanwhile
        while True:
            ticks = [(item.next_after(self._last_ms[item.name]), item.name) for item in self.app.schedules.values()]
            due_ms, name = min(ticks, default=(until_ms + 1, ""))
            if due_ms > until_ms:
                break
            await self._set_clock(due_ms)
            self._last_ms[name] = due_ms
            item = self.app.schedules[name]
            request = self._producer.tick(item, due_ms, "store" if item.missed == "all" else "coalesce")
            await self._connections.store_of(request.id).run(enqueue([request]))
        await self._set_clock(until_ms)

    async def _tell_schedules(self) -> None:
        for item in self.app.schedules.values():
            if item.name not in self._last_ms:
                self._last_ms[item.name] = await self.now_ms()
                about = [(item.name, item.task.name, item.task.task_options.queue, item.shown)]
                await self._connections.store.run(schedule(about))

    async def drain(self, *, raises: bool = True) -> int:
        """
        Run everything that is takeable now, with a real worker, until nothing is left.

        Returns:
            How many runs there were.

        Raises:
            Exception: The first error that a job raised, as itself, with notes on the others; unless `raises` is False. What a
                job asks for by Retry, Snooze, Discard or Dead is no error.
            JobFailedError: A job ended failed or dead although it raised nothing: a timeout, or arguments or a result that
                don't fit.
        """
        check_flag("raises", raises)
        self._must_be_open()
        errors: list[BaseException] = []
        runs = 0
        ended: list[JobFailedError] = []

        def note(_lease: str, outcomes: list[Outcome], _verdicts: list[Any]) -> None:
            for outcome in outcomes:
                asked = outcome.reason.startswith(("discarded: ", "set aside: "))
                if outcome.kind in (OutcomeKind.FAILED, OutcomeKind.DEAD) and not asked:
                    id = to_text(outcome.id)
                    found = decode_error(self._connections.cipher.peek(outcome.payload))
                    facts = (found.type, found.message, found.traceback) if found else ("", "", "")
                    ended.append(JobFailedError(id, outcome.kind.value, outcome.reason, *facts))

        async def watch(job: CurrentJob, call_next: Any) -> Any:
            nonlocal runs
            runs += 1
            try:
                return await call_next()
            except BaseException as error:
                wish = meant_by(error)
                if not isinstance(wish, Signal) and not isinstance(error, asyncio.CancelledError):
                    errors.append(error)
                raise

        # Ticks are stored by `advance`, at their times; a scheduler beside it would add to them by the real clock.
        definitions = self._producer.definitions
        hooks, schedules = definitions.hooks, definitions.schedules
        definitions.schedules = {}
        hooks.run.insert(0, watch)
        hooks.settled.append(note)
        try:
            await self.app.run_worker(burst=True, handle_signals=False)
        finally:
            hooks.run.remove(watch)
            hooks.settled.remove(note)
            definitions.schedules = {**schedules, **definitions.schedules}
        if raises:
            _raise_first(errors, ended)
        return runs

    def _must_be_open(self) -> None:
        if not self._open:
            raise UsageError(_NOT_OPEN)

    async def crash_after(self, jobs: int = 1, *, run: bool = True) -> int:
        """
        A worker takes up to `jobs` jobs, runs each to its end, and dies before it has recorded anything; then its jobs
        are recovered. What your tasks do twice now, they do twice in production.

        Args:
            jobs: How many it takes at most.
            run: False: it dies before they start.

        Returns:
            How many it took.
        """
        check_whole("crash_after: jobs", jobs)
        self._must_be_open()
        lease = f"crashing.{next(_number)}"
        store, settings = self._connections.store, self._connections.settings
        await store.run(register(lease, settings.heartbeat_ttl, settings.heartbeat_interval, {"label": "crashing"}))
        taken: list[FetchedJob] = []
        for number in range(1, 4):  # the first ones may only promote what is due
            reply = await store.run(fetch(lease, number, jobs - len(taken), 0, self.app.tasks.queues()))
            assert isinstance(reply, Fetched)
            taken += reply.jobs
            if len(taken) >= jobs or not reply.more:
                break
        if run:
            await self._run_unrecorded(lease, taken)
        await store.run(release(lease, End.DIED, ago=0.0))
        while True:
            portion = await store.run(
                recover(
                    lease,
                    owner="kit",
                    max_recoveries=settings.max_recoveries,
                    lock_ttl=settings.recovery_lock_ttl,
                    resend_window=settings.resend_window,
                    interval=settings.heartbeat_interval,
                )
            )
            if portion.word is not PortionWord.OK or not portion.remaining:
                return len(taken)

    async def _run_unrecorded(self, lease: str, jobs: list[FetchedJob]) -> None:
        """Run what a fetch brought as a worker does, without recording how it ended."""
        definitions, connections = self._producer.definitions, self._connections
        tasks, settings = definitions.tasks, connections.settings
        ended = asyncio.Event()
        slots = Slots(max(1, len(jobs)))
        pools = Pools(
            settings, definitions.hooks, setup_of(self.app, connections.child_settings(settings), definitions.home)
        )
        async with _lifespan(definitions.hooks) as state:
            runner = Runner(
                tasks,
                settings,
                lease,
                lambda outcome: None,
                definitions.hooks,
                state,
                connections.store.run,
                Binder(tasks, definitions.queue_limits, connections.shards),
                slots,
                pools,
                None,
                connections.cipher,
            )
            runner.on_room = ended.set
            try:
                runner.take(jobs)
                while not slots.idle:
                    ended.clear()
                    await ended.wait()
            finally:
                runner.close()
                await pools.close()

    async def dead(self) -> list[str]:
        """Ids of the jobs that are dead now."""
        self._must_be_open()
        return [job.id async for job in read_dead(self._connections.store, DeadFilter(), self._connections.cipher)]


@contextlib.contextmanager
def fake(app: TrackedQueue) -> Iterator[Fake]:
    """Record enqueues and store none; arguments are checked all the same. Needs no Redis."""
    recorded = Fake(app=_an_app("fake", app))

    async def record(on_its_way: Enqueueing, call_next: Any) -> Job[Any]:
        task = app.tasks.get(on_its_way.task)
        if task is not None:
            given = 1 if on_its_way.options.inputs else 0
            task.signature.encode(on_its_way.args, on_its_way.kwargs, app.settings.max_payload, given)
        recorded.calls.append(
            Recorded(
                task=on_its_way.task, args=on_its_way.args, kwargs=dict(on_its_way.kwargs), options=on_its_way.options
            )
        )
        return Job(on_its_way.id or f"fake-{len(recorded.calls)}", True, _Faked())

    with _in_place_of_redis(app, record, "this app's enqueues are only recorded (fake), so it must not use Redis"):
        yield recorded


@contextlib.contextmanager
def _in_place_of_redis(app: TrackedQueue, function: Any, why: str) -> Iterator[None]:
    """
    Send each enqueue to a function instead: after the app's own middleware, and before another such function, so that
    of two open ones the inner one gets it.
    """
    producer = producer_of(app)
    layers, connections = producer.definitions.hooks.enqueue, producer.connections
    function.in_place_of_redis = True
    place = next((at for at, one in enumerate(layers) if hasattr(one, "in_place_of_redis")), len(layers))
    layers.insert(place, function)
    before, connections.closed_for = connections.closed_for, why
    try:
        yield
    finally:
        layers.remove(function)
        connections.closed_for = before


def _an_app(what: str, app: Any) -> TrackedQueue:
    if not isinstance(app, TrackedQueue):
        raise UsageError(f"{what}: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
    return app


@contextlib.asynccontextmanager
async def inline(app: TrackedQueue) -> AsyncIterator[None]:
    """
    An enqueue runs the job at once, here, with its arguments encoded and decoded as they would be; what the job raises,
    the enqueue raises. Chains, groups and `after` work among such jobs. Needs no Redis; the app's lifespan and
    middleware are around it. Timeouts, unique keys, limits and delays are not kept: `QueueKit` has them.
    """
    done: dict[str, _Outcome] = {}
    async with _lifespan(producer_of(_an_app("inline", app)).definitions.hooks) as state:

        async def run(on_its_way: Enqueueing, call_next: Any) -> Job[Any]:
            task = app.tasks.get(on_its_way.task)
            if task is None:
                raise UsageError(f"inline: this app has no task {on_its_way.task!r}")
            options, signature = on_its_way.options, task.signature
            job_id = on_its_way.id or f"inline-{next(_number)}"
            before = [_outcome_of(id, done) for id in options.after_ids]
            given = 1 if options.inputs else 0
            packed = signature.encode(on_its_way.args, on_its_way.kwargs, app.settings.max_payload, given)
            if job_id in done:
                return Job(job_id, False, done[job_id].reader, None)
            skipped = _skipped(job_id, options, before)
            if skipped is not None:
                done[job_id] = skipped
                return Job(job_id, True, skipped.reader, None)
            args, kwargs = signature.decode(*packed, given)
            if given:
                wanted = before[: 1 if options.inputs == "one" else options.wanted]
                results = [outcome.result or NIL for outcome in wanted]
                first: Any
                if signature.streams:
                    first = Results.of(map(signature.decode_first, results))
                else:
                    first = signature.decode_first(results[0] if options.inputs == "one" else packed_list(results))
                args = (first, *args)
            try:
                value = await _insist(
                    task,
                    lambda attempt: _call(
                        app, task, args, kwargs, job_id, on_its_way.queue, state, on_its_way.headers, attempt
                    ),
                )
            except (Discard, Dead) as wish:
                ended = "dead" if isinstance(wish, Dead) else "failed"
                done[job_id] = _failed(job_id, ended, str(wish))
                return Job(job_id, True, done[job_id].reader, None)
            encoded = b"" if value is None else signature.result.encode(value)
            result = None if value is None else signature.result.decode(encoded)
            done[job_id] = _Outcome(encoded, _Done(result), succeeded=True)
            return Job(job_id, True, done[job_id].reader, None)

        with _in_place_of_redis(app, run, "this app's jobs run at once (inline), so it must not use Redis"):
            yield


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an inline job ended: its encoded result, and what reads it."""

    result: bytes
    reader: JobReader
    succeeded: bool = False


def _failed(job_id: str, state: str, reason: str) -> _Outcome:
    return _Outcome(b"", _Failed(JobFailedError(job_id, state, reason, "", "", "")))


def _skipped(job_id: str, options: JobOptions, before: Sequence[_Outcome]) -> _Outcome | None:
    """The outcome of a job that doesn't run because of how the jobs before it ended; None if it runs."""
    failed = not all(outcome.succeeded for outcome in before)
    if options.on_failure == "fallback" and options.after is not None and not failed:
        return _Outcome(b"", _NotNeeded(job_id))
    if options.on_failure == "fail" and failed:
        return _failed(job_id, "failed", "a job that it comes after did not succeed")
    return None


# An inline job that asks for another run gets it at once; one that never stops asking is a mistake in the test.
MOST_RUNS = 100


async def _insist(task: Task[..., Any], call: Callable[[int], Awaitable[Any]]) -> Any:
    """Run a job as often as it asks for it by Retry and Snooze, within its attempts."""
    attempts = 0
    for _ in range(MOST_RUNS):
        try:
            return await call(attempts + 1)
        except BaseException as error:
            wish = meant_by(error)
            if isinstance(wish, Retry):
                attempts += 1
                if attempts >= task.task_options.max_attempts:
                    raise Dead(f"attempts exhausted: {wish}") from error
            elif not isinstance(wish, Snooze):
                if wish is error:
                    raise
                raise wish from error
    raise UsageError(f"inline: job of task {task.name} asked for more than {MOST_RUNS} runs")


def _outcome_of(id: str, done: Mapping[str, _Outcome]) -> _Outcome:
    if id not in done:
        raise UsageError(f"inline: job {id}, which this one comes after, has not run inline")
    return done[id]


@contextlib.asynccontextmanager
async def _lifespan(hooks: Hooks) -> AsyncIterator[Any]:
    if hooks.lifespan is None:
        yield None
    else:
        async with hooks.lifespan() as state:
            yield state


async def _call(
    app: TrackedQueue, task: Task[..., Any], args: Any, kwargs: Any, job_id: str, queue: str, state: Any = None,
    headers: Any = MappingProxyType({}), attempt: int = 1,
) -> Any:  # fmt: skip
    producer = producer_of(app)
    hooks = producer.definitions.hooks
    pools = Pools(
        app.settings, hooks, setup_of(app, producer.connections.child_settings(app.settings), producer.definitions.home)
    )
    host = _Host(state, app.settings.max_payload, pools)
    delivery = _Delivery(job_id, task.name, queue, headers)
    delivery.attempt, delivery.max_attempts = attempt, task.task_options.max_attempts
    token = current.set(CurrentJob(delivery, host))
    try:
        async with host:
            return await invoker(task, hooks, pools.processes, pools.shared)(args, kwargs)
    finally:
        await pools.close()
        current.reset(token)


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


class _SyncToo:
    """The calls of a reader that need no event loop: none of these readers waits for anything."""

    def job_info_sync(self: Any, job_id: str, codec: Any) -> JobInfo:
        found: JobInfo = run_now(self.job_info(job_id, codec))
        return found

    def job_result_sync(self: Any, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        return run_now(self.job_result(job_id, codec, timeout))

    def job_cancel_sync(self: Any, job_id: str) -> bool:
        return bool(run_now(self.job_cancel(job_id)))


class _Faked(_SyncToo):
    """The handle of an enqueue that was only recorded: nothing is known of it."""

    async def _refuse(self, job_id: str) -> Any:
        raise UsageError(f"job {job_id} was recorded by fake() and not stored, so nothing is known of it")

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        found: JobInfo = await self._refuse(job_id)
        return found

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        return await self._refuse(job_id)

    async def job_cancel(self, job_id: str) -> bool:
        return bool(await self._refuse(job_id))

    async def job_states(self, job_ids: Any) -> list[State | None]:
        return list(await self._refuse(", ".join(job_ids)))

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        yield await self._refuse(job_id)


class _Done(_SyncToo):
    """Reads the outcome of a job that has run inline."""

    def __init__(self, result: Any) -> None:
        self._result = result

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        raise UsageError("an inline job has no record; ask for its result")

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        return self._result

    async def job_cancel(self, job_id: str) -> bool:
        return False

    async def job_states(self, job_ids: Any) -> list[State | None]:
        return [State.SUCCEEDED for _ in job_ids]

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        yield await self.job_info(job_id, codec)


class _Failed(_Done):
    """A job that ended without success because of what it raised."""

    def __init__(self, error: JobFailedError) -> None:
        super().__init__(None)
        self._error = error

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        raise self._error

    async def job_states(self, job_ids: Any) -> list[State | None]:
        return [State(self._error.state) for _ in job_ids]


class _NotNeeded(_Done):
    """A fallback that was cancelled, since everything before it succeeded."""

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        raise JobCancelledError(job_id)
