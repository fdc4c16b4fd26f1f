"""One shard's side of a worker process: life under one lease there, and another lease when one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from .. import log
from ..errors import StoreRefusedError, StoreUnavailableError
from ..model.cipher import Cipher
from ..model.hooks import Hooks
from ..model.schedules import Schedule
from ..model.task import Registry
from ..protocol.keys import Keys
from ..protocol.request import Request
from ..protocol.transitions import Beat, Call, End, Mode, Outcome, Verdict, register, release, tend, unpark
from ..settings import Settings
from ..sharding.agreement import Agreement
from ..transport.link import Endpoint, Link, LinkPool, SyncLink
from ..transport.store import Store, SyncStore, check_server
from .fetcher import Fetcher
from .heartbeat import Heartbeat
from .late_limits import Binder
from .lease import LeaseState, new_lease
from .liveness import SignOfLife
from .outage import Outage, insist, pauses
from .predecessors import Origin, release_predecessors, watch_label
from .queues import Served
from .reconcile import Reconciler
from .recovery import Recovery
from .runner import MAX_BUFFERED_S, Cause, Pools, Runner
from .scheduler import Scheduler
from .settler import Settler
from .shutdown import Shutdown
from .slots import Slots
from .watchdog import Watchdog

T = TypeVar("T")

# The processing list is compared with what really runs once in so many idle beats.
RECONCILE_INTERVALS = 2
# Deregistering at the end takes no longer than this; a lease that is left runs out by itself.
RELEASE_S = 1.0


class Stop:
    """The wish to stop: once with grace, a second time at once. `told` is called at the first."""

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Stop; asked again: without grace."""
        if self.asked.is_set():
            self.at_once.set()
        else:
            self._told()
        self.reason = self.reason or reason
        self.asked.set()


@dataclass(kw_only=True)
class Host:
    """What the shards of one process share."""

    tasks: Registry
    settings: Settings
    endpoint: Endpoint
    served: Served
    binder: Binder
    limits: Mapping[str, int]
    hooks: Hooks
    tick: Callable[[Schedule, int, str], Request]
    agreement: Agreement
    about: Mapping[str, str]
    origin: Origin
    label: str
    sign: SignOfLife
    announce: Callable[[int, str], None]
    burst: bool
    stop: Stop
    slots: Slots
    state: Any = None  # what the lifespan yielded
    pools: Pools
    cipher: Cipher
    mode: Mode
    saw_suspects: Callable[[], None]
    began: Callable[[], None]
    quiet: bool = False


class Tenure:
    """
    What a process does in one shard.

    Args:
        shard: Its number; where there are others, log lines name it.
        schedules: Those whose ticks are kept there.
    """

    def __init__(self, host: Host, shard: int, keys: Keys, schedules: Sequence[Schedule]) -> None:
        self._host, self._shard, self._keys, self._schedules = host, shard, keys, list(schedules)
        self._endpoint = host.endpoint.of(keys)
        self._outage = Outage(f"shard {shard}: " if host.slots.several else "")
        self._first = True
        self._unparking = self._tending = False
        self._fetcher: Fetcher | None = None
        self._marking: asyncio.Future[None] | None = None
        self.runner: Runner | None = None
        self.lease = ""
        self.ran = 0  # under leases that are over

    async def ready(self) -> bool:
        """Wait for a usable Redis; False if stopped meanwhile. Raises StoreRefusedError."""
        link = Link(self._endpoint)
        tries = pauses()
        stop = self._host.stop
        try:
            while not stop.asked.is_set():
                try:
                    for problem in await check_server(Store(link, self._keys)):
                        log.redis_unsafe(problem=problem)
                    await self._host.agreement.agree(self._host.endpoint)
                except StoreUnavailableError as error:
                    self._outage.failed(f"{error.problem} (waiting for it)")
                    await link.close()  # the name, or the cluster, may lead to another server by now
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(next(tries)):
                            await stop.asked.wait()
                else:
                    self._outage.worked()
                    return True
            return False
        finally:
            await link.close()

    async def run(self) -> int:
        """Work until stopped, under one lease after the other; 0 if nothing was left behind."""
        while True:
            code = await self._serve()
            if code is not None:
                return code

    def go_quiet(self) -> None:
        """Fetch no more; what runs goes on."""
        if self._fetcher is not None:
            self._fetcher.stay_quiet(True)
            self._marking = asyncio.ensure_future(self._mark_quiet(self._fetcher))

    async def _mark_quiet(self, fetcher: Fetcher) -> None:
        with contextlib.suppress(StoreUnavailableError):  # the fetcher itself knows it in any case
            await fetcher.mark_quiet()

    async def _serve(self) -> int | None:
        """Live under one lease: the exit code when stopped, None when the lease was lost and another is needed."""
        host, settings = self._host, self._host.settings
        lease = self.lease = new_lease(host.label)
        host.announce(self._shard, lease)
        async with _links(self._endpoint, self._keys) as links:
            sent_at = time.monotonic()
            call = register(lease, settings.heartbeat_ttl, settings.heartbeat_interval, host.about, host.limits)
            registered = await insist(links.beat, call, self._outage, host.stop.asked.is_set)
            if registered is None:
                return 0
            if not registered:
                return None
            state = LeaseState(lease, settings.heartbeat_ttl, sent_at)
            host.sign.write(self._shard, lease)
            log.instance_registered(
                lease=lease,
                shard=self._shard,
                label=host.label,
                queues=host.served.names,
                tasks=[task.name for task in host.tasks],
                concurrency=settings.concurrency,
            )
            if self._first and settings.auto_recovery:
                self._first = False
                await release_predecessors(
                    links.rest, host.origin, host.label, settings.exclusive_label, several=host.slots.several
                )
            return await self._work(state, links)

    async def _work(self, state: LeaseState, links: _Links) -> int | None:
        host, settings, outage = self._host, self._host.settings, self._outage
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
            fetcher.stay_quiet(beat.quiet or host.quiet)
            for job_id in beat.cancels:
                runner.cancel(job_id)
            known = [name for name in beat.parked if host.tasks.get(name) is not None]
            if known and not self._unparking:
                group.start_soon(self._unpark, links.rest, known)
            if beat.run_out and settings.auto_recovery:
                recovery.poke()
            if not set(beat.suspecting).isdisjoint(host.served.names):
                fetcher.suspects_seen()
            if beat.tend and not self._tending:
                group.start_soon(self._tend, links.rest)
            runner.hand_back_buffered(MAX_BUFFERED_S)

        def doubt() -> None:
            log.lease_doubted(lease=state.lease, running=len(runner.running), silent_s=state.silent_s)
            runner.cancel_all(Cause.DOUBT)

        def recorded(_lease: str, _batch: list[Outcome], _verdicts: list[Verdict]) -> None:
            fetcher.recorded()

        told = (*host.hooks.settled, recorded)
        settler = Settler(links.settle, state.lease, settings, outage, lambda: state.lost, told)

        async def ask(call: Call[T]) -> T | None:
            return await insist(links.rest, call, outage, lambda: state.lost, while_full=False)

        runner = Runner(
            host.tasks,
            settings,
            state.lease,
            settler.add,
            host.hooks,
            host.state,
            ask,
            host.binder,
            host.slots,
            host.pools,
            host.served.cap(host.slots.owned_of),
            host.cipher,
        )
        self.runner, runner.light = runner, settler.light
        fetcher = Fetcher(
            store=links.fetch,
            control=links.rest,
            wait_link=links.wait_link,
            wait_store=links.wait,
            state=state,
            runner=runner,
            queues=host.served,
            slots=host.slots,
            settings=settings,
            outage=outage,
            burst=host.burst,
            mode=host.mode,
            saw_suspects=host.saw_suspects,
            began=host.began,
            settled=lambda: settler.left == 0,
            lost=lost,
        )
        self._fetcher = fetcher
        fetcher.stay_quiet(host.quiet)
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
            schedules=self._schedules,
            make=host.tick,
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
        )
        fetching_over = asyncio.Event()
        left = 0

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
                    group.start_soon(watch_label, links.rest, host.origin, host.label, settings.heartbeat_ttl / 2)
                await _first(host.stop.asked, over, fetching_over)
                if over.is_set() and not host.stop.asked.is_set():
                    await self._let_go(runner)
                    group.cancel_scope.cancel()
                    return None
                shutdown = Shutdown(
                    state=state,
                    settings=settings,
                    stop=host.stop,
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
            try:
                with anyio.CancelScope(shield=True):
                    await self._end_what_runs(runner)
            finally:
                if all(item.settled for item in runner.running):
                    watchdog.stop()
                self.runner = None
                self.ran += runner.ran
                runner.close()
        if not state.lost and not left:
            with contextlib.suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
                # Beats have ended and the list is empty: the instance deregisters. What could not be handed back is
                # recovered by the supervisor, or when the lease runs out.
                async with asyncio.timeout(RELEASE_S):
                    await links.rest.run(release(state.lease, End.INTERRUPTED))
        log.instance_stopped(
            lease=state.lease, shard=self._shard, reason=host.stop.reason or "nothing left to do", left=left
        )
        return 1 if left or host.stop.at_once.is_set() else 0

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
            await asyncio.wait(tasks, timeout=self._host.settings.cancel_grace)

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
                        moved, remaining = await store.run(unpark(task, self._host.served.names))
                        if moved:
                            log.tasks_unparked(task=task, moved=moved, remaining=remaining)
                        if not moved or not remaining:
                            break
        finally:
            self._unparking = False

    async def _tend(self, store: Store) -> None:
        """What each fetch sees to by itself, for when every place is taken and nobody fetches."""
        self._tending = True
        try:
            with contextlib.suppress(StoreUnavailableError):
                while await store.run(tend()):
                    pass
        finally:
            self._tending = False

    async def _reconcile(self, reconciler: Reconciler) -> None:
        while True:
            await asyncio.sleep(RECONCILE_INTERVALS * self._host.settings.heartbeat_interval)
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


async def _first(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
