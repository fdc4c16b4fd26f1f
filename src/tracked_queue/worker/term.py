"""The life of one lease: its parts, what they tell each other, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
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
from ..protocol.transitions import (
    MAX_RICH,
    Beat,
    BeatFacts,
    Call,
    End,
    LateOutcome,
    Mode,
    Outcome,
    Verdict,
    heartbeat,
    late,
    release,
    tend,
    unpark,
)
from ..settings import Settings
from ..sharding.agreement import Agreement
from ..transport.endpoint import Endpoint
from ..transport.store import SyncStore
from ..transport.sync_link import SyncLink
from .fetcher import Fetcher
from .heartbeat import Heartbeat
from .late_limits import Binder
from .lease import LeaseState
from .links import Links
from .liveness import SignOfLife
from .meter import METER
from .outage import Outage, insist
from .outcome import Cause
from .plans import Plans
from .predecessors import Origin, watch_label
from .queues import Served
from .reconcile import Reconciler
from .recorder import RECORDER
from .recovery import Recovery, Witness
from .runner import MAX_BUFFERED_S, Pools, Runner
from .scheduler import Scheduler
from .settler import Settler
from .shutdown import Shutdown
from .slots import Slots
from .stop import Stop
from .watchdog import Watchdog

T = TypeVar("T")

# The processing list is compared with what really runs once in this many idle beats.
RECONCILE_INTERVALS = 2
# Deregistering at the end takes no longer than this; a lease that is left runs out by itself.
RELEASE_S = 1.0


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
    plans: Plans
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


class Term:
    """
    One lease of one shard, from its registration on.

    Each part is a field; what one part has to tell another goes through a method here.

    Args:
        shard: Its number.
        links: The connections of this lease.
    """

    def __init__(
        self,
        host: Host,
        shard: int,
        endpoint: Endpoint,
        keys: Keys,
        state: LeaseState,
        links: Links,
        outage: Outage,
    ) -> None:
        settings = host.settings
        self._host, self._shard, self._state, self._links, self._outage = host, shard, state, links, outage
        self._over = asyncio.Event()  # the lease is lost
        self._fetching_over = asyncio.Event()
        self._ended = self._begun = False
        # What beats asked for. Standing tasks do it: the watchdog's news come outside of any task, where anyio starts none.
        self._parked: Sequence[str] = ()
        self._unpark_asked, self._tend_asked = asyncio.Event(), asyncio.Event()
        self._marking: asyncio.Future[None] | None = None
        told = (*host.hooks.settled, self._recorded)
        self._settler = Settler(links.settle, state.lease, settings, outage, lambda: state.lost, told)
        self.runner = Runner(
            host.tasks,
            settings,
            state.lease,
            self._settler.add,
            host.hooks,
            host.state,
            self._ask,
            host.binder,
            host.slots,
            host.pools,
            host.served.cap(host.slots.owned_of),
            host.cipher,
        )
        self.runner.light = self._settler.light
        self._fetcher = Fetcher(
            store=links.fetch,
            control=links.rest,
            wait_link=links.wait_link,
            wait_store=links.wait,
            state=state,
            runner=self.runner,
            queues=host.served,
            slots=host.slots,
            settings=settings,
            outage=outage,
            burst=host.burst,
            mode=host.mode,
            saw_suspects=host.saw_suspects,
            began=host.began,
            settled=lambda: self._settler.left == 0,
            lost=self._lost,
        )
        self._fetcher.stay_quiet(host.quiet)
        self._heartbeat = Heartbeat(
            store=links.beat,
            state=state,
            settings=settings,
            outage=outage,
            busy=lambda: bool(self.runner.running),
            news=self._news,
            doubt=self._doubt,
            starts=self.runner.starts,
            starts_answered=self.runner.starts_answered,
            times=self.runner.times,
        )
        self._scheduler = Scheduler(
            store=links.rest, plans=host.plans, shard=shard, make=host.tick, outage=outage, lost=lambda: state.lost
        )
        self._recovery = Recovery(
            links.rest, settings, state.lease, outage, Witness(host.hooks.tracing, host.cipher.open)
        )
        self._reconciler = Reconciler(
            store=links.rest,
            lease=state.lease,
            known=lambda: self.runner.owned | self._settler.owned,
            oldest_fetch=lambda: self._fetcher.oldest_in_flight,
            settle=self._settler.add,
        )
        self._watchdog = Watchdog(
            store=SyncStore(SyncLink(endpoint, settings.heartbeat_ttl / 4), keys),
            state=state,
            settings=settings,
            runner=self.runner,
            news=self._news,
        )

    # What the parts tell each other

    def _lost(self) -> None:
        """The lease is gone: nothing that runs here counts any more."""
        if self._state.lose():
            log.lease_lost(lease=self._state.lease, running=len(self.runner.running))
            self.runner.cancel_all(Cause.LOST)
            self._over.set()
            RECORDER.write("lease-lost", asyncio.get_running_loop())

    def _doubt(self) -> None:
        """Too long without a good beat: others may soon have what runs here."""
        log.lease_doubted(lease=self._state.lease, running=len(self.runner.running), silent_s=self._state.silent_s)
        self.runner.cancel_all(Cause.DOUBT)

    def _news(self, beat: Beat | None) -> None:
        """What a beat brought; None: the lease is lost."""
        host = self._host
        if self._ended:
            return  # a late answer to the watchdog
        if beat is None:
            self._lost()
            return
        if not self._begun:
            return  # the next beat says it again
        self._fetcher.stay_quiet(beat.quiet or host.quiet)
        for job_id in beat.cancels:
            self.runner.cancel(job_id)
        if known := [name for name in beat.parked if host.tasks.get(name) is not None]:
            self._parked = known
            self._unpark_asked.set()
        if beat.run_out and host.settings.auto_recovery:
            self._recovery.poke()
        if not set(beat.suspecting).isdisjoint(host.served.names):
            self._fetcher.suspects_seen()
        if beat.tend:
            self._tend_asked.set()
        self.runner.hand_back_buffered(MAX_BUFFERED_S)

    def _recorded(self, _lease: str, _batch: list[Outcome], _verdicts: list[Verdict]) -> None:
        self._fetcher.recorded()

    async def _ask(self, call: Call[T]) -> T | None:
        """Carry out a call that a running job makes."""
        return await insist(self._links.rest, call, self._outage, lambda: self._state.lost, while_full=False)

    def go_quiet(self) -> None:
        """Fetch no more; what runs goes on."""
        self._fetcher.stay_quiet(True)
        self._marking = asyncio.ensure_future(self._mark_quiet())

    async def _mark_quiet(self) -> None:
        with contextlib.suppress(StoreUnavailableError):  # the fetcher itself knows it in any case
            await self._fetcher.mark_quiet()

    async def _unpark(self) -> None:
        while True:
            await self._unpark_asked.wait()
            self._unpark_asked.clear()
            for task in self._parked:
                with contextlib.suppress(StoreUnavailableError):
                    while True:
                        moved, remaining = await self._links.rest.run(unpark(task, self._host.served.names))
                        if moved:
                            log.tasks_unparked(task=task, moved=moved, remaining=remaining)
                        if not moved or not remaining:
                            break

    async def _tend(self) -> None:
        """Do what each fetch does on the side, for when every place is taken and nothing is fetched."""
        while True:
            await self._tend_asked.wait()
            self._tend_asked.clear()
            with contextlib.suppress(StoreUnavailableError):
                while await self._links.rest.run(tend()):
                    pass

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_INTERVALS * self._host.settings.heartbeat_interval)
            with contextlib.suppress(StoreUnavailableError):
                await self._reconciler.look()

    async def _fetch(self) -> None:
        await self._fetcher.run()
        self._fetching_over.set()

    # Its life

    async def run(self) -> int | None:
        """Work until stopped or lost: the exit code, or None if the lease was lost and another is needed."""
        host = self._host
        left: int | None = None
        self._recovery.poke()  # what a predecessor has left is moved now
        self._watchdog.start()
        end_count = METER.collect(self.runner.counted)
        try:
            async with anyio.create_task_group() as group:
                self._begun = True
                for part in (
                    self._fetch,
                    self._settler.run,
                    self._heartbeat.run,
                    self._heartbeat.watch,
                    self._recovery.run,
                    self._scheduler.run,
                    self._reconcile,
                    self._unpark,
                    self._tend,
                ):
                    group.start_soon(part)
                if host.settings.exclusive_label:
                    beat_s = host.settings.heartbeat_ttl / 2
                    group.start_soon(watch_label, self._links.rest, host.origin, host.label, beat_s)
                await _first(host.stop.asked, self._over, self._fetching_over)
                if self._over.is_set() and not host.stop.asked.is_set():
                    await self._let_go()
                else:
                    left = await self._shut_down()
                group.cancel_scope.cancel()
        finally:
            self._ended = True
            await self._end()
            end_count()
        if self._state.lost:
            await self._note_late()
        if left is None:
            return None
        if not self._state.lost and not left:
            with contextlib.suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
                # Beats have ended and the list is empty: the instance deregisters. What could not be handed back is
                # recovered by the supervisor, or when the lease runs out.
                async with asyncio.timeout(RELEASE_S):
                    await self._count_last()
                    await self._links.rest.run(release(self._state.lease, End.INTERRUPTED))
        log.instance_stopped(
            lease=self._state.lease, shard=self._shard, reason=host.stop.reason or "nothing left to do", left=left
        )
        return 1 if left or host.stop.at_once.is_set() else 0

    async def _shut_down(self) -> int:
        """Stop in order; how many jobs could not be handed back."""
        shutdown = Shutdown(
            state=self._state,
            settings=self._host.settings,
            stop=self._host.stop,
            runner=self.runner,
            settler=self._settler,
            fetcher=self._fetcher,
            reconciler=self._reconciler,
            store=self._links.rest,
        )
        return await shutdown.run()

    async def _let_go(self) -> None:
        """After a loss: wait for the cancelled jobs; the watchdog ends the process if one does not stop."""
        while self.runner.running:
            await asyncio.wait([item.asyncio_task for item in self.runner.running if item.asyncio_task])

    async def _note_late(self) -> None:
        """Note how deliveries of this lost lease ended, so that a second run can be explained; tried once."""
        ends = [LateOutcome(it.id, it.delivery, it.kind, it.ran_ms or 0) for it in self._settler.unsent]
        ends += self.runner.late
        with contextlib.suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                for at in range(0, len(ends), MAX_RICH):
                    await self._links.rest.run(late(self._state.lease, ends[at : at + MAX_RICH]))

    async def _count_last(self) -> None:
        """Carry what has been counted since the last beat."""
        settings, times = self._host.settings, self.runner.times
        while counters := times.portion():
            facts = BeatFacts(times.number, (), counters)
            await self._links.rest.run(
                heartbeat(self._state.lease, settings.heartbeat_ttl, settings.heartbeat_interval, facts)
            )
            times.answered()

    async def _end(self) -> None:
        """
        However this lease ends, even by an error of ours, nothing of it runs on without a heartbeat.

        What does not end in its time keeps the watchdog, which ends the process when the lease runs out; unless its
        outcome is recorded already (a stubborn job at a shutdown), since then it owns nothing.
        """
        runner = self.runner
        try:
            with anyio.CancelScope(shield=True):
                unsettled = [item for item in runner.running if not item.settled]
                runner.cancel_all(Cause.LOST)
                tasks = [item.asyncio_task for item in unsettled if item.asyncio_task]
                if tasks:
                    await asyncio.wait(tasks, timeout=self._host.settings.cancel_grace)
        finally:
            if all(item.settled for item in runner.running):
                self._watchdog.stop()
            runner.close()


async def _first(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
