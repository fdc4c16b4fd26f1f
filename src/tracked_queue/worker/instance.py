"""One process of the worker: its signals, its lifespan, and its shards, each under a lease of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import anyio

from .. import log
from ..errors import LifespanError, TrackedQueueError
from ..model.cipher import Cipher
from ..model.definitions import Definitions
from ..model.schedules import Schedule
from ..protocol.request import Request
from ..protocol.transitions import Mode
from ..protocol.version import package_version
from ..settings import Settings
from ..sharding.agreement import Agreement
from ..sharding.placement import deciding
from ..sharding.shards import Shards
from ..transport.endpoint import Endpoint
from . import signals
from .isolated import setup_of
from .late_limits import Binder, known_limits
from .lineage import watch_forks
from .liveness import SignOfLife, default_label
from .loopwatch import LoopWatch
from .meter import METER, Gauges, Key
from .plans import Plans
from .predecessors import origin_of
from .queues import Queues, Served
from .recorder import RECORDER
from .recycle import share_done
from .runner import Pools, Runner
from .shard import ShardWorker
from .slots import Slots
from .stop import Stop
from .term import Host

# How long the end of a process that has failed waits for the recorder's file.
LAST_FILE_S = 1.0
# A process for suspects ends after this long without one.
SUSPECTS_IDLE_S = 5.0


class Namespace(Protocol):
    """What an instance needs of its app's connections."""

    @property
    def shards(self) -> Shards: ...

    @property
    def agreement(self) -> Agreement: ...

    @property
    def cipher(self) -> Cipher: ...

    def child_settings(self, settings: Settings) -> Mapping[str, Any]: ...


class Producer(Protocol):
    """What an instance needs of its app: its definitions, what its connections rest on, and the jobs of its schedules."""

    @property
    def app(self) -> object: ...

    @property
    def definitions(self) -> Definitions: ...

    @property
    def connections(self) -> Namespace: ...

    def tick(self, schedule: Schedule, tick_ms: int, mode: str) -> Request: ...


class Instance:
    """
    A worker process.

    `announce` gets the shard and the id of each lease before it is registered: a supervisor that knows it can release it at
    once when this process dies. `ready` is called once signals are handled, `ending` when its end begins, `began` when it was
    given jobs, `sign` in a thread as long as threads run, `numbers` about once a second in the loop, `suspects` when suspects
    were seen that `mode` may leave to others.
    `program` is the supervisor's pid; under a supervisor only its word ends the grace, not a second signal.
    """

    def __init__(
        self,
        producer: Producer,
        settings: Settings,
        endpoint: Endpoint,
        *,
        queues: Queues | None = None,
        queue_concurrency: Mapping[str, int] | None = None,
        burst: bool = False,
        announce: Callable[[int, str], None] = lambda shard, lease: None,
        ready: Callable[[], None] = lambda: None,
        ending: Callable[[], None] = lambda: None,
        began: Callable[[], None] = lambda: None,
        sign: Callable[[], None] = lambda: None,
        numbers: Callable[[], None] = lambda: None,
        mode: Mode = Mode.FIRST,
        suspects: Callable[[], None] = lambda: None,
        program: int | None = None,
    ) -> None:
        self._origin = origin_of(os.getpid(), program or os.getpid())
        self.recycled = False  # it ended because it had reached max_jobs or max_memory
        definitions, connections = producer.definitions, producer.connections
        tasks = definitions.tasks
        self._tasks, self._settings, self._hooks = tasks, settings, definitions.hooks
        self._ready, self._tell_suspects, self._tell_sign, self._tell_numbers = ready, suspects, sign, numbers
        self._suspects_at = time.monotonic()  # when some were seen last
        tasks.check()
        self._label = settings.instance_id or default_label()
        served = Served(tasks, queues, queue_concurrency)
        self._queues, self._most = served.names, served.most
        if served.unknown:
            log.queues_unnamed(queues=served.unknown, named=tasks.queues())
        self._sign = SignOfLife(settings.namespace, self._label)
        shards = connections.shards
        if shards.count > 1:
            for task in tasks:
                options, queue = task.task_options, task.task_options.queue
                deciding(task.name, queue, options.unique, options.limits, definitions.queue_limits.get(queue, ()))
        # A schedule's arguments are checked here, so that a misfit fails the start; it is kept in the shard of its jobs.
        plans = Plans(
            definitions.schedules,
            definitions.sources,
            lambda planned: planned.schedule(producer),
            lambda item: shards.of_id(producer.tick(item, 1000, "pass").id),
        )
        self._supervised = program is not None
        self.stop = Stop(ending)
        isolates = any(task.task_options.isolate for task in tasks)
        setup = setup_of(producer.app, connections.child_settings(settings), definitions.home) if isolates else b""
        watch_forks()
        self._host = Host(
            tasks=tasks,
            settings=settings,
            endpoint=endpoint,
            served=served,
            binder=Binder(tasks, definitions.queue_limits, shards),
            limits=known_limits(tasks, definitions.queue_limits),
            hooks=definitions.hooks,
            tick=producer.tick,
            plans=plans,
            agreement=Agreement(shards, connections.agreement.chosen),  # asked anew at each start
            about=self._about(),
            origin=self._origin,
            label=self._label,
            sign=self._sign,
            announce=announce,
            burst=burst,
            stop=self.stop,
            slots=Slots(settings.concurrency, several=shards.count > 1),
            pools=Pools(settings, definitions.hooks, setup),
            cipher=connections.cipher,
            mode=mode,
            saw_suspects=self._saw_suspects,
            began=began,
        )
        self._shards = [ShardWorker(self._host, shard, shards.keys(shard)) for shard in range(shards.count)]

    async def run(self, *, handle_signals: bool = True) -> int:
        """
        Work until stopped; 0 if nothing was left behind.

        Cancelled from outside, it stops as on SIGTERM, and ends cancelled. An anyio scope cancels what is inside
        again and again; so the work is shielded from it, and one task outside the shield passes the cancellation on.
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
        with self._signals() if handle_signals else contextlib.nullcontext():
            watch = LoopWatch(
                self._settings,
                leases=lambda: [worker.lease for worker in self._shards],
                running=lambda: [item for runner in self._runners() for item in list(runner.running)],
                tick=self._tick,
                sign=self._tell_sign,
            )
            watch.start()
            uncollect = METER.collect(self._counted)
            RECORDER.use(self._settings.flight_folder, self._flight)
            try:
                self._ready()
                return await self._work()
            except Exception as error:
                if not isinstance(error, TrackedQueueError):  # an error of ours in the parts of a worker
                    written = RECORDER.write("failed", asyncio.get_running_loop())
                    if written is not None:
                        written.join(LAST_FILE_S)  # the process ends with this
                raise
            finally:
                watch.stop()
                self._tell_numbers()
                uncollect()
                await self._host.pools.close()
                self._sign.remove()

    def _flight(self) -> dict[str, Any]:
        now = time.monotonic()
        running = [item for runner in self._runners() for item in list(runner.running)]
        return {
            "label": self._label,
            "version": package_version(),
            "leases": [worker.lease for worker in self._shards],
            "running": [[item.id, item.task.name, round(now - item.started_at, 3)] for item in running],
        }

    def _tick(self) -> None:
        self._sign.touch()
        self._tell_numbers()

    def _counted(self) -> tuple[dict[Key, float], Gauges]:
        pools = self._host.pools
        return {}, {
            "slots": self._settings.concurrency,
            "threads_busy": pools.lanes.busy,
            "children_busy": pools.processes.busy,
        }

    async def _work(self) -> int:
        """Each shard begins when its server is usable; the lifespan when the first one is."""
        codes: list[int] = []
        any_ready, live, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        errors: list[Exception] = []
        left = len(self._shards)

        async def serve(worker: ShardWorker) -> None:
            nonlocal left
            try:
                if await worker.ready():
                    any_ready.set()
                    await live.wait()
                    codes.append(await worker.run())
            except Exception as error:  # the others hand back what they have, in order, before it is raised
                errors.append(error)
                self.stop.ask(f"a part of it has failed: {type(error).__qualname__}")
            left -= 1
            if not left:
                any_ready.set()
                over.set()

        cancelled = False
        async with anyio.create_task_group() as group:
            for worker in self._shards:
                group.start_soon(serve, worker)
            if self._settings.max_jobs or self._settings.max_memory:
                group.start_soon(self._recycle)
            if self._host.mode in (Mode.ONLY, Mode.SHORT):
                group.start_soon(self._end_without_suspects)
            cancelled = await self._wait_for(any_ready, group)
            if left:
                async with self._lifespan(), self._shared(), self._companions():
                    live.set()
                    cancelled = await self._wait_for(over, group) or cancelled
            group.cancel_scope.cancel()
        if errors:
            raise _first_error(errors[0])
        if cancelled:
            raise asyncio.CancelledError
        return max(codes, default=0)

    @contextlib.asynccontextmanager
    async def _companions(self) -> AsyncIterator[None]:
        """What runs beside the jobs, within the lifespan."""
        companions = self._hooks.companions
        if self._host.burst:
            for companion in companions:
                await companion.before_burst()
            for source in self._host.plans.sources:
                await self._host.plans.read(source, self._host.state)
        beside = [asyncio.ensure_future(companion.beside()) for companion in companions]
        plans = self._host.plans
        beside += [asyncio.ensure_future(plans.follow(source, self._host.state)) for source in plans.sources]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            if beside:
                await asyncio.wait(beside, timeout=self._settings.cancel_grace)

    async def _wait_for(self, event: asyncio.Event, group: anyio.abc.TaskGroup) -> bool:
        """Wait for an event; a cancellation meanwhile is a request to stop, and jobs are handed back all the same."""
        cancelled = False
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError:
                host = asyncio.current_task()
                if group.cancel_scope.cancel_called or host is None:
                    raise  # one of our own tasks has failed
                host.uncancel()  # else the task group ends what follows
                cancelled = True
                self.stop.ask("cancelled")
        return cancelled

    def _runners(self) -> list[Runner]:
        return [worker.runner for worker in self._shards if worker.runner is not None]

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        """The app's own set-up around all work of this process; its end is bounded by what is left of the grace."""
        if self._hooks.lifespan is None:
            yield
            return
        try:
            manager = self._hooks.lifespan()
            if not hasattr(manager, "__aenter__"):
                raise TypeError(
                    f"it returned a {type(manager).__qualname__}; write a function under @contextlib.asynccontextmanager"
                )
            self._host.state = await manager.__aenter__()
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

    @contextlib.asynccontextmanager
    async def _shared(self) -> AsyncIterator[None]:
        """Shared dependencies may use what the lifespan has set up, so they are left before it."""
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(self._settings.cancel_grace):
                    await self._host.pools.shared.close()
            except Exception as error:
                log.dependencies_left(error=f"{type(error).__qualname__}: {error}"[:300])

    def _signals(self) -> contextlib.AbstractContextManager[None]:
        """SIGTERM and SIGINT stop, SIGUSR1 stops only the fetching, SIGUSR2 writes the flight recorder's events to a file."""
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            loop.call_soon_threadsafe(self._stop_on, name)

        def quiet(name: str) -> None:
            loop.call_soon_threadsafe(self._go_quiet, name)

        def record(_: str) -> None:
            loop.call_soon_threadsafe(RECORDER.write, "asked", loop)

        return signals.listening({**signals.stopping(stop), signals.QUIET: quiet, signals.RECORD: record})

    def told_to_stop(self) -> None:
        """Stop because the supervisor said so over its pipe, which it does in addition to its signal."""
        if not self.stop.asked.is_set():
            self.stop.ask("the supervisor")

    def _stop_on(self, name: str) -> None:
        if self._supervised and self.stop.asked.is_set():
            return
        meaning = "stopping without grace" if self.stop.asked.is_set() else "stopping"
        log.signal_received(name=name, meaning=meaning)
        self.stop.ask(name)

    def _go_quiet(self, name: str) -> None:
        log.signal_received(name=name, meaning="fetching no more jobs")
        self._host.quiet = True
        for worker in self._shards:
            worker.go_quiet()

    def _about(self) -> dict[str, str]:
        return {
            "label": self._label,
            "host": default_label(),
            "pid": str(os.getpid()),
            "version": package_version(),
            "queues": "\n".join(self._queues),
            "tasks": "\n".join(task.name for task in self._tasks),
            "concurrency": str(self._settings.concurrency),
            "most": "\n".join(f"{queue}={count}" for queue, count in self._most.items()),
            "machine": self._origin.machine,
            "born": self._origin.born,
            "program": self._origin.program,
        }

    def _saw_suspects(self) -> None:
        self._suspects_at = time.monotonic()
        self._tell_suspects()

    async def _end_without_suspects(self) -> None:
        """A process for suspects ends when there were none for a while."""
        while True:
            left_s = self._suspects_at + SUSPECTS_IDLE_S - time.monotonic()
            if left_s <= 0 and self._host.slots.idle:
                self.stop.ask("no suspects are left")
                return
            await asyncio.sleep(max(left_s, SUSPECTS_IDLE_S / 5))

    async def _recycle(self) -> None:
        """Ask for the end of this process when it has done its share."""
        why = await share_done(
            self._settings,
            lambda: sum(worker.ran for worker in self._shards),
        )
        log.process_recycled(lease=self._shards[0].lease, why=why)
        self.recycled = True
        self.stop.ask("recycled")


def _first_error(errors: BaseException) -> BaseException:
    """The one error that a part of the instance ended with, out of the groups around it."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
