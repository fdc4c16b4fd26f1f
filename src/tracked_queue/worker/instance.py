"""One process of the worker: the wiring of its parts under one lease, and a new lease when one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeVar

import anyio

from .. import log
from ..constraints import Limit
from ..errors import LifespanError, StoreRefusedError, StoreUnavailableError
from ..keys import Keys
from ..link import Endpoint, Link, LinkPool, SyncLink
from ..middleware import Surroundings
from ..schedules import Schedule
from ..settings import Settings
from ..store import Store, SyncStore, check_server
from ..task import Registry, Request
from ..transitions import Beat, Call, register, release, unpark
from .binding import Binder, known_limits
from .fetcher import Fetcher
from .heartbeat import Heartbeat
from .lease import LeaseState, new_lease
from .liveness import SignOfLife, default_label
from .outage import Outage, insist, pauses
from .rebirth import origin_of, release_predecessors, watch_label
from .reconcile import Reconciler
from .recovery import Recovery
from .recycle import share_done
from .runner import MAX_BUFFERED_S, Cause, Runner
from .scheduler import Scheduler
from .served import Queues, Served
from .settler import Settler
from .shutdown import Shutdown
from .watchdog import Watchdog

T = TypeVar("T")

# The processing list is compared with what really runs once in so many idle beats.
RECONCILE_INTERVALS = 2
# Deregistering at the end takes no longer than this; a lease that is left runs out by itself.
RELEASE_S = 1.0


def package_version() -> str:
    """Our own version, as instances show it."""
    try:
        return version("tracked-queue")
    except PackageNotFoundError:
        return "unknown"


class App(Protocol):
    """What an instance needs of its app."""

    @property
    def tasks(self) -> Registry: ...

    @property
    def keys(self) -> Keys: ...

    @property
    def queue_limits(self) -> Mapping[str, tuple[Limit, ...]]: ...

    @property
    def around(self) -> Surroundings: ...

    @property
    def schedules(self) -> Mapping[str, Schedule]: ...

    def tick(self, schedule: Schedule, tick_ms: int, mode: str) -> Request: ...


class Stop:
    """The wish to stop: once with grace, a second time at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Stop; asked again: without grace."""
        if self.asked.is_set():
            self.at_once.set()
        self.reason = self.reason or reason
        self.asked.set()


class Instance:
    """
    A worker process.

    `announce` gets each lease id before it is registered: a supervisor that knows it can release it at once when
    this process dies. `ready` is called once signals are handled. `program` is the supervisor's pid.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        endpoint: Endpoint,
        *,
        queues: Queues | None = None,
        queue_concurrency: Mapping[str, int] | None = None,
        burst: bool = False,
        announce: Callable[[str], None] = lambda lease: None,
        ready: Callable[[], None] = lambda: None,
        program: int | None = None,
    ) -> None:
        self._origin = origin_of(os.getpid(), program or os.getpid())
        self._first = True
        self.recycled = False  # it ended because it had reached max_jobs or max_memory
        self._tasks, self._settings, self._endpoint, self._keys = app.tasks, settings, endpoint, app.keys
        self._binder = Binder(app.tasks, app.queue_limits)
        self._limits = known_limits(app.tasks, app.queue_limits)
        self._app, self._around = app, app.around
        for schedule in app.schedules.values():
            app.tick(schedule, 1000, "pass")  # its arguments fit, or the start says so
        self._state: Any = None  # what the lifespan yielded
        self._served = Served(app.tasks, queues, queue_concurrency)
        self._queues, self._burst, self._announce = self._served.names, burst, announce
        self._ready = ready
        self._label = settings.instance_id or default_label()
        self._sign = SignOfLife(settings.namespace, self._label)
        self._outage = Outage()
        self.stop = Stop()

    async def run(self, *, handle_signals: bool = True) -> int:
        """
        Work until stopped; 0 if nothing was left behind.

        Cancelled from outside, it stops as on SIGTERM, and ends cancelled. An anyio scope cancels what is inside
        again and again; so the work is shielded from it, and one task outside of the shield tells of it.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._stop_when_cancelled)
                with anyio.CancelScope(shield=True):
                    code = await self._run(handle_signals)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise _first_error(errors) from errors
        return code

    async def _stop_when_cancelled(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stop.ask("cancelled")
            raise

    async def _run(self, handle_signals: bool) -> int:
        async with _signals(self._stop_on, self._go_quiet) if handle_signals else _nothing():
            try:
                self._ready()
                if not await self._server_ready():
                    return 0
                async with self._lifespan():
                    while True:
                        code = await self._serve()
                        if code is not None:
                            return code
            finally:
                self._sign.remove()

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        """The app's own set-up around all work of this process; its end is bounded by what is left of the grace."""
        if self._around.lifespan is None:
            yield
            return
        manager = self._around.lifespan()
        try:
            self._state = await manager.__aenter__()
        except Exception as error:
            raise LifespanError(
                f"the app's lifespan raised at the start: {type(error).__qualname__}: {error}"
            ) from error
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(self._settings.cancel_grace):
                    await manager.__aexit__(None, None, None)
            except Exception as error:
                log.lifespan_ended(error=f"{type(error).__qualname__}: {error}"[:300])

    def _stop_on(self, name: str) -> None:
        meaning = "stopping without grace" if self.stop.asked.is_set() else "stopping"
        log.signal_received(name=name, meaning=meaning)
        self.stop.ask(name)

    def _go_quiet(self, name: str) -> None:
        log.signal_received(name=name, meaning="fetching no more jobs")
        self._quiet_wanted = True
        if self._fetcher is not None:
            self._fetcher.stay_quiet(True)
            self._marking = asyncio.ensure_future(self._mark_quiet(self._fetcher))

    async def _mark_quiet(self, fetcher: Fetcher) -> None:
        with contextlib.suppress(StoreUnavailableError):  # the fetcher itself knows it in any case
            await fetcher.mark_quiet()

    _marking: asyncio.Future[None] | None = None
    _quiet_wanted = False
    _fetcher: Fetcher | None = None

    async def _server_ready(self) -> bool:
        """Wait for a usable Redis; False if stopped meanwhile. Raises StoreRefusedError."""
        link = Link(self._endpoint)
        tries = pauses()
        try:
            while not self.stop.asked.is_set():
                try:
                    for problem in await check_server(Store(link, self._keys)):
                        log.redis_unsafe(problem=problem)
                except StoreUnavailableError as error:
                    self._outage.failed(f"{error.problem} (waiting for it)")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(next(tries)):
                            await self.stop.asked.wait()
                else:
                    self._outage.worked()
                    return True
            return False
        finally:
            await link.close()

    async def _serve(self) -> int | None:
        """Live under one lease: the exit code when stopped, None when the lease was lost and another is needed."""
        lease = new_lease(self._label)
        self._announce(lease)
        async with _links(self._endpoint, self._keys) as links:
            sent_at = time.monotonic()
            about = self._about()
            call = register(lease, self._settings.heartbeat_ttl, self._settings.heartbeat_interval, about, self._limits)
            registered = await insist(links.beat, call, self._outage, self.stop.asked.is_set)
            if registered is None:
                return 0
            if not registered:
                return None
            state = LeaseState(lease, self._settings.heartbeat_ttl, sent_at)
            self._sign.write(lease)
            log.instance_registered(
                lease=lease,
                label=self._label,
                queues=self._queues,
                tasks=[task.name for task in self._tasks],
                concurrency=self._settings.concurrency,
            )
            if self._first and self._settings.auto_recovery:
                self._first = False
                await release_predecessors(links.rest, self._origin, self._label, self._settings.exclusive_label)
            return await self._work(state, links)

    def _about(self) -> dict[str, str]:
        return {
            "label": self._label,
            "host": default_label(),
            "pid": str(os.getpid()),
            "version": package_version(),
            "queues": "\n".join(self._queues),
            "tasks": "\n".join(task.name for task in self._tasks),
            "concurrency": str(self._settings.concurrency),
            "machine": self._origin.machine,
            "born": self._origin.born,
            "program": self._origin.program,
        }

    async def _recycle(self, runner: Runner, lease: str) -> None:
        """Ask for the end of this process when it has done its share."""
        log.process_recycled(lease=lease, why=await share_done(self._settings, lambda: runner.ran))
        self.recycled = True
        self.stop.ask("recycled")

    async def _work(self, state: LeaseState, links: _Links) -> int | None:
        settings, outage = self._settings, self._outage
        over = asyncio.Event()  # the lease is lost

        def lost() -> None:
            if state.lose():
                log.lease_lost(lease=state.lease, running=len(runner.running))
                runner.cancel_all(Cause.LOST)
                over.set()

        def news(beat: Beat | None) -> None:
            if self._fetcher is not fetcher:
                return  # a late answer to the watchdog, after this lease has ended
            if beat is None:
                lost()
                return
            fetcher.stay_quiet(beat.quiet or self._quiet_wanted)
            for job_id in beat.cancels:
                runner.cancel(job_id)
            known = [name for name in beat.parked if self._tasks.get(name) is not None]
            if known and not self._unparking:
                group.start_soon(self._unpark, links.rest, known)
            if beat.run_out and settings.auto_recovery:
                recovery.poke()
            runner.hand_back_buffered(MAX_BUFFERED_S)

        def doubt() -> None:
            log.lease_doubted(lease=state.lease, running=len(runner.running), silent_s=state.silent_s)
            runner.cancel_all(Cause.DOUBT)

        settler = Settler(links.settle, state.lease, settings, outage, lambda: state.lost, self._around.settled)

        async def ask(call: Call[T]) -> T | None:
            return await insist(links.rest, call, outage, lambda: state.lost)

        runner = Runner(
            self._tasks,
            settings,
            state.lease,
            settler.add,
            lambda: fetcher.room_changed(),  # noqa: PLW0108  (fetcher comes after)
            self._around,
            self._state,
            ask,
            self._binder,
        )
        fetcher = Fetcher(
            store=links.fetch,
            control=links.rest,
            wait_link=links.wait_link,
            wait_store=links.wait,
            state=state,
            runner=runner,
            queues=self._served,
            settings=settings,
            outage=outage,
            burst=self._burst,
            settled=lambda: settler.left == 0,
            lost=lost,
        )
        self._fetcher = fetcher
        fetcher.stay_quiet(self._quiet_wanted)
        heartbeat = Heartbeat(
            store=links.beat,
            state=state,
            settings=settings,
            outage=outage,
            busy=lambda: bool(runner.running),
            news=news,
            doubt=doubt,
        )
        scheduler = Scheduler(
            store=links.rest,
            schedules=list(self._app.schedules.values()),
            make=self._app.tick,
            outage=outage,
            lost=lambda: state.lost,
        )
        recovery = Recovery(links.rest, settings, state.lease, outage)
        reconciler = Reconciler(
            store=links.rest,
            lease=state.lease,
            known=lambda: runner.owned | settler.owned,
            oldest_fetch=lambda: fetcher.oldest_in_flight,
            settle=settler.add,
        )
        watchdog = Watchdog(
            store=SyncStore(SyncLink(self._endpoint, settings.heartbeat_ttl / 4), self._keys),
            state=state,
            settings=settings,
            runner=runner,
            news=news,
            tick=self._sign.touch,
        )
        fetching_over = asyncio.Event()
        cancelled, left = False, 0

        async def fetch() -> None:
            await fetcher.run()
            fetching_over.set()

        recovery.poke()  # what a predecessor has left is moved now
        watchdog.start()
        try:
            async with anyio.create_task_group() as group:
                for part in (fetch, settler.run, heartbeat.run, heartbeat.watch, recovery.run, scheduler.run):
                    group.start_soon(part)
                group.start_soon(self._reconcile, reconciler)
                if settings.exclusive_label:
                    group.start_soon(watch_label, links.rest, self._origin, self._label, settings.heartbeat_ttl / 2)
                if settings.max_jobs or settings.max_memory:
                    group.start_soon(self._recycle, runner, state.lease)
                try:
                    await _first(self.stop.asked, over, fetching_over)
                except asyncio.CancelledError:
                    # Whoever runs us cancels us to stop us; jobs are handed back all the same.
                    cancelled = True
                    host = asyncio.current_task()
                    if host is not None:
                        host.uncancel()  # else the task group ends what follows
                    self.stop.ask("cancelled")
                if over.is_set() and not self.stop.asked.is_set():
                    await self._let_go(runner)
                    group.cancel_scope.cancel()
                    return None
                shutdown = Shutdown(
                    state=state,
                    settings=settings,
                    stop=self.stop,
                    runner=runner,
                    settler=settler,
                    fetcher=fetcher,
                    reconciler=reconciler,
                    store=links.rest,
                )
                left = await shutdown.run()
                group.cancel_scope.cancel()
        finally:
            self._fetcher = None
            await self._end_what_runs(runner)
            if all(item.settled for item in runner.running):
                watchdog.stop()
            await runner.close()
        if not state.lost and not left:
            with contextlib.suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
                # Beats have ended and the list is empty: the instance deregisters. What could not be handed back is
                # recovered by the supervisor, or when the lease runs out.
                async with asyncio.timeout(RELEASE_S):
                    await links.rest.run(release(state.lease, interrupted=True))
        log.instance_stopped(lease=state.lease, reason=self.stop.reason or "nothing left to do", left=left)
        if cancelled:
            raise asyncio.CancelledError
        return 1 if left or self.stop.at_once.is_set() else 0

    async def _end_what_runs(self, runner: Runner) -> None:
        """
        However this lease ends, by an error of ours too: nothing of it runs on without a heartbeat.

        What does not end in its time keeps the watchdog, which ends the process when the lease runs out; unless its
        outcome is recorded already (a stubborn job at a shutdown), since then it owns nothing.
        """
        unsettled = [item for item in runner.running if not item.settled]
        runner.cancel_all(Cause.LOST)
        tasks = [item.asyncio_task for item in unsettled if item.asyncio_task]
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.cancel_grace)

    async def _let_go(self, runner: Runner) -> None:
        """After a loss: wait for the cancelled jobs; the watchdog ends the process if one does not stop."""
        while runner.running:
            await asyncio.wait([item.asyncio_task for item in runner.running if item.asyncio_task])

    async def _unpark(self, store: Store, tasks: Sequence[str]) -> None:
        self._unparking = True
        try:
            for task in tasks:
                with contextlib.suppress(StoreUnavailableError):
                    while True:
                        moved, remaining = await store.run(unpark(task, self._queues))
                        if moved:
                            log.tasks_unparked(task=task, moved=moved, remaining=remaining)
                        if not moved or not remaining:
                            break
        finally:
            self._unparking = False

    _unparking = False

    async def _reconcile(self, reconciler: Reconciler) -> None:
        while True:
            await asyncio.sleep(RECONCILE_INTERVALS * self._settings.heartbeat_interval)
            with contextlib.suppress(StoreUnavailableError):
                await reconciler.look()


class _Links:
    """The connections of one lease: fetch, settle and beats have their own, so that nothing starves them."""

    def __init__(self, endpoint: Endpoint, keys: Keys) -> None:
        self.wait_link = Link(endpoint, identify=True)
        self.wait = Store(self.wait_link, keys)
        self.fetch = Store(Link(endpoint), keys)
        self.settle = Store(Link(endpoint), keys)
        self.beat = Store(Link(endpoint), keys)
        self.rest = Store(LinkPool(endpoint, 2), keys)

    async def close(self) -> None:
        for store in (self.wait, self.fetch, self.settle, self.beat, self.rest):
            await store.close()


@contextlib.asynccontextmanager
async def _links(endpoint: Endpoint, keys: Keys) -> AsyncIterator[_Links]:
    links = _Links(endpoint, keys)
    try:
        yield links
    finally:
        await links.close()


def _first_error(errors: BaseException) -> BaseException:
    """The one error that a part of the instance ended with, out of the groups around it."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


async def _first(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _signals(stop: Callable[[str], None], quiet: Callable[[str], None]) -> AsyncIterator[None]:
    """SIGTERM and SIGINT stop, SIGUSR1 stops only the fetching."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = quiet
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
