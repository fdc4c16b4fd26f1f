"""`QueueKit`: an app on a real Redis and a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ..app import TrackedQueue, producer_of
from ..errors import JobFailedError, UsageError
from ..model.checks import check_flag, check_whole, to_seconds
from ..model.codec import decode_error
from ..model.context import CurrentJob
from ..model.hooks import RunMiddleware
from ..model.retry import Signal, meant_by
from ..model.schedules import Schedule, ScheduleSource
from ..model.task import PreparedCall, Task, TaskWithOptions
from ..protocol.text import to_text
from ..protocol.transitions import (
    End,
    Fetched,
    FetchedJob,
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
from ..reports.dead import DeadFilter, read_dead
from ..reports.listing import ListedState
from ..settings import Seconds
from ..worker.isolated import setup_of
from ..worker.late_limits import Binder
from ..worker.plans import Plans
from ..worker.runner import Pools, Runner
from ..worker.slots import Slots
from .calls import lifespan, perform
from .crashes import Crash, crashing, new_job_of
from .records import Recorded, Records
from .server import embedded_url, number

R = TypeVar("R")

_NOT_OPEN = "this app is under test: open the kit first, as `async with queue_kit as kit:`, or take `run_queue_test`"


def _raise_first(errors: list[BaseException], ended: list[JobFailedError]) -> None:
    """The first error of a drain, with a note for each other one."""
    if not errors and not ended:
        return
    first = errors[0] if errors else ended[0]
    for other in errors[1:]:
        first.add_note(f"another job raised {type(other).__qualname__}: {other}")
    raise first


def _need_state(sources: Sequence[ScheduleSource]) -> bool:
    return any(source.takes_state for source in sources)


# A crashing worker takes so many jobs at once.
MOST_TAKEN = 1000
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
        beside: Another kit whose namespace and clock it takes: see QueueKits.
    """

    def __init__(self, app: TrackedQueue, start: datetime | None = None, *, beside: QueueKit | None = None) -> None:
        if not isinstance(app, TrackedQueue):
            raise UsageError(f"QueueKit: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
        if start is not None and (not isinstance(start, datetime) or start.tzinfo is None):
            raise UsageError(f"QueueKit: start={start!r}: it must be a datetime with a timezone")
        self.app, self._start, self._beside = app, start, beside
        self._producer = producer_of(app)
        self._connections = self._producer.connections
        self._settings = app.settings
        self._last_ms: dict[str, int] = {}
        # Kits that have the namespace and clock of this one.
        self._members: list[QueueKit] = []
        if beside is not None:
            beside._members.append(self)
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
            namespace=f"test{os.getpid()}-{next(number)}"
            if self._beside is None
            else self._beside.app.settings.namespace,
            shards=1,
            sources={},
        )
        self._connections.use(settings, "now_ms_test")
        self._keys = self._connections.keys
        if self._beside is None:
            start_s = time.time() if self._start is None else self._start.timestamp()
            await self.set_clock(int(start_s * 1000))
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

    @property
    def is_beside(self) -> bool:
        """Whether its namespace and clock are another kit's."""
        return self._beside is not None

    async def set_clock(self, ms: int) -> None:
        """Let the clock say this, ms since 1970."""
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
        # Those that were defined, or are named by a source, meanwhile too; of all apps that have this clock.
        kits = [self, *self._members]
        schedules = [(kit, item) for kit in kits for item in (await kit._tell_schedules()).values()]
        while True:
            ticks = [(item.next_after(kit._last_ms[item.name]), at) for at, (kit, item) in enumerate(schedules)]
            due_ms, at = min(ticks, default=(until_ms + 1, 0))
            if due_ms > until_ms:
                break
            await self.set_clock(due_ms)
            kit, item = schedules[at]
            kit._last_ms[item.name] = due_ms
            request = kit._producer.tick(item, due_ms, "store" if item.missed == "all" else "coalesce")
            await kit._connections.store_of(request.id).run(enqueue([request]))
        await self.set_clock(until_ms)

    async def _tell_schedules(self) -> dict[str, Schedule]:
        plans = Plans(self.app.schedules, [], lambda planned: planned.schedule(self._producer), lambda _: 0)
        sources = self._producer.definitions.sources
        async with (
            lifespan(self._producer.definitions.hooks) if _need_state(sources) else contextlib.nullcontext() as state
        ):
            for source in sources:
                await plans.take(source, await source.read(state))
        schedules = {item.name: item for item in plans.of(0)}
        # One that is named again later begins anew.
        self._last_ms = {name: ms for name, ms in self._last_ms.items() if name in schedules}
        for item in schedules.values():
            if item.name not in self._last_ms:
                self._last_ms[item.name] = await self.now_ms()
                about = [(item.name, item.task.name, item.task.task_options.queue, item.shown)]
                await self._connections.store.run(schedule(about))
        return schedules

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
        hooks, schedules, sources = definitions.hooks, definitions.schedules, definitions.sources
        definitions.schedules, definitions.sources = {}, []
        hooks.run.insert(0, watch)
        hooks.settled.append(note)
        try:
            await self.app.run_worker(burst=True, handle_signals=False)
        finally:
            hooks.run.remove(watch)
            hooks.settled.remove(note)
            definitions.schedules = {**schedules, **definitions.schedules}
            definitions.sources = [*sources, *definitions.sources]
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
        return len(await self._crash(jobs, None, run=run))

    async def _crash(self, jobs: int | list[str], watch: RunMiddleware | None, *, run: bool = True) -> list[str]:
        """
        A worker takes jobs (so many, or those of these ids among all), runs them within `watch`, and dies; then all that it
        took is recovered.
        """
        if not isinstance(jobs, int) and watch is None:
            run = False
        lease = f"crashing.{next(number)}"
        store, settings = self._connections.store, self._connections.settings
        await store.run(register(lease, settings.heartbeat_ttl, settings.heartbeat_interval, {"label": "crashing"}))
        wanted = jobs if isinstance(jobs, int) else MOST_TAKEN
        taken: list[FetchedJob] = []
        for turn in range(1, 4):  # the first ones may only promote what is due
            reply = await store.run(fetch(lease, turn, wanted - len(taken), 0, self.app.tasks.queues()))
            assert isinstance(reply, Fetched)
            taken += reply.jobs
            if len(taken) >= wanted or not reply.more:
                break
        if run:
            chosen = taken if isinstance(jobs, int) else [job for job in taken if to_text(job.id) in jobs]
            hooks = self._producer.definitions.hooks
            if watch is not None:
                hooks.run.insert(0, watch)
            try:
                await self._run_unrecorded(lease, chosen)
            finally:
                if watch is not None:
                    hooks.run.remove(watch)
                    # Those that the job was using are never given back.
                    await self._connections.abandon()
                    store = self._connections.store
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
                return [to_text(job.id) for job in taken]

    async def _run_unrecorded(self, lease: str, jobs: list[FetchedJob]) -> None:
        """Run what a fetch brought as a worker does, without recording how it ended."""
        definitions, connections = self._producer.definitions, self._connections
        tasks, settings = definitions.tasks, connections.settings
        ended = asyncio.Event()
        slots = Slots(max(1, len(jobs)))
        pools = Pools(
            settings, definitions.hooks, setup_of(self.app, connections.child_settings(settings), definitions.home)
        )
        async with lifespan(definitions.hooks) as state:
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

    async def run(self, call: PreparedCall[R], *, attempt: int = 1, saved: Any = None) -> R:
        """
        Run a call's function now, as a worker would and with what is around it, and return its value; nothing is stored.

        Args:
            attempt: Which run of the job it is.
            saved: The checkpoint of the run before.

        Raises:
            Exception: What the function raises, as itself.
        """
        self._must_be_open()
        value: R = await perform(self.app, call, attempt=attempt, saved=saved)
        return value

    async def enqueued(self, task: Task[..., Any] | TaskWithOptions[..., Any] | str | None = None) -> list[Recorded]:
        """What waits now, of all tasks or of one: queued, scheduled, waiting for others, parked; in no certain order."""
        return (await self._records()).all_enqueued(task)

    async def assert_enqueued(
        self, task: Task[..., Any] | TaskWithOptions[..., Any] | str, *args: Any, **kwargs: Any
    ) -> Recorded:
        """One that waits, with these arguments and options: see `Fake.assert_enqueued`. Raises AssertionError."""
        return (await self._records()).assert_enqueued(task, *args, **kwargs)

    async def assert_not_enqueued(
        self, task: Task[..., Any] | TaskWithOptions[..., Any] | str, *args: Any, **kwargs: Any
    ) -> None:
        """Raises AssertionError if one waits."""
        (await self._records()).assert_not_enqueued(task, *args, **kwargs)

    async def _records(self) -> Records:
        self._must_be_open()
        calls = []
        states: tuple[ListedState, ...] = ("queued", "scheduled", "waiting", "parked")
        for state in states:
            page = await self.app.operator.jobs(state, limit=1000)
            while True:
                calls += [Recorded.of_job(await self.app.job(row.id).info()) for row in page.rows]
                if page.next is None:
                    break
                page = await self.app.operator.jobs(state, limit=1000, start=page.next)
        return Records(self.app, calls)

    async def crash_everywhere(self, call: PreparedCall[Any], *, most: int = 1000) -> AsyncIterator[Crash]:
        """
        Crash a job at each point where it waits, in turn, and let it run again to its end: what your task does twice, you see.

        For each point the call is enqueued anew, run up to there and abandoned, as by a killed process: nothing of it goes on,
        no `finally` and no `except` of its own. Then it is recovered, everything that is takeable runs to its end, and the
        point is yielded: look at what became of it, and set your state back for the next one. The first point is before the
        job starts, the last one after it has returned and before that was recorded; a plain `def` has these two only.

        Args:
            most: Give up after so many points.

        Raises:
            UsageError: Something waits already, the call is another app's, or the job has more points.
            Exception: What a run after the crash raises; see `drain`.
        """
        self._must_be_open()
        if call.task is None or call.task.enqueuer is not self._producer:
            raise UsageError(f"crash_everywhere: {call!r} is not a call of a task of this app: task.call(...)")
        check_whole("crash_everywhere: most", most)
        if any(queue.length for queue in (await self.app.operator.queues()).queues):
            raise UsageError("crash_everywhere: something waits already: drain() first")
        for point in range(most + 1):
            (job,) = await self.app.enqueue_many([new_job_of(call)])
            if not job.created:
                raise UsageError(
                    "crash_everywhere: another job holds its unique key: set your state back, and leave out a window"
                )
            crash = Crash(point)
            taken = await self._crash([job.id], None if point == 0 else crashing(crash, job.id, call.task.is_async))
            if job.id not in taken or not (point == 0 or crash.reached):
                state = await job.status()
                await job.cancel()
                raise UsageError(
                    f"crash_everywhere: the job is {state} and was not taken: it has a delay, or is held "
                    "back by a limit, a pause or an earlier job"
                )
            await self.drain()
            yield crash
            if crash.is_last:
                return
        raise UsageError(
            f"crash_everywhere: the job waits at more than {most} points: give most=, or a smaller example"
        )

    async def dead(self) -> list[str]:
        """Ids of the jobs that are dead now."""
        self._must_be_open()
        return [job.id async for job in read_dead(self._connections.store, DeadFilter(), self._connections.cipher)]
