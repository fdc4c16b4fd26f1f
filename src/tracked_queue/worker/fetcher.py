"""
Asking for jobs: at once while there are some, else by waiting in Redis for the markers of the instance's queues.

Each fetch has the next number; one whose reply is missing is repeated with its number until it is answered, and none
is ever cancelled in flight. Source: lua/fetch.lua; docs/explanation/waking.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from .. import log
from ..errors import StoreRefusedError, StoreUnavailableError
from ..protocol.transitions import Call, Fetched, Mode, Refusal, fetch, quiet
from ..settings import Settings
from ..transport.link import Link
from ..transport.store import Store
from .appetite import Want
from .lease import LeaseState
from .outage import Outage, insist, pauses
from .queues import Served
from .runner import Runner
from .slots import Slots

# After a fetch that brought nothing although something is left (due jobs were promoted, cancelled ones dropped).
EMPTY_PAUSE_S = 0.005
LATE_PAUSE_S = 0.1
# How soon to reconsider a wait that leaves out queues which are at their limit in this instance.
CAPPED_BLOCK_S = 0.25
# Longer than anything takes.
FOR_EVER_S = 1e9
# How soon suspects that could not be taken (the process has other jobs, a limit is full) are asked for again.
SUSPECTS_PAUSE_S = 1.0
# How long a fetch may keep places for its jobs from the other shards of its process.
PATIENCE_S = 0.25


class Fetcher:
    """Keeps the runner filled until it is stopped or the lease is lost; with `burst`, until nothing is left."""

    def __init__(
        self,
        *,
        store: Store,
        control: Store,
        wait_link: Link,
        wait_store: Store,
        state: LeaseState,
        runner: Runner,
        queues: Served,
        slots: Slots,
        settings: Settings,
        outage: Outage,
        burst: bool,
        mode: Mode,
        saw_suspects: Callable[[], None],
        began: Callable[[], None],
        settled: Callable[[], bool],
        lost: Callable[[], None],
    ) -> None:
        self._store, self._control = store, control
        self._wait_link, self._wait_store = wait_link, wait_store
        self._state, self._runner, self._served = state, runner, queues
        self._settings, self._outage, self._burst = settings, outage, burst
        self._settled, self._lost = settled, lost
        self._slots, self._seat = slots, runner.seat
        self._markers = store.keys.markers
        self._capped = False
        # Which suspects this process may run, whether the last fetch saw some, and when they may be asked for again.
        self._mode, self._saw_suspects = mode, saw_suspects
        self._began: Callable[[], None] | None = began
        self._suspects_left, self._limited = self._only, False
        self._ask_at = 0.0
        # Until then nothing joins the suspects that are here, unless they end before.
        self._held_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._appetite = runner.appetite
        self._due_at: float | None = None
        self._quiet = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._standing: asyncio.Task[Fetched | Refusal] | None = None
        self._standing_number = 0
        self._standing_asks = 0
        self._in_flight: dict[int, float] = {}
        self._over = asyncio.Event()
        runner.on_room = self._room_changed

    # What others tell

    def _room_changed(self) -> None:
        """A slot was freed."""
        if self._capped:
            self._appetite.more = True  # perhaps one of a queue that had as many as it may have here
        if self._standing is not None and not (self._appetite.more or self._suspects_left or self._due_at is not None):
            return  # it waits in Redis already, and there is nothing else to ask for
        if not self._changed.is_set():
            self._changed.set()

    def stay_quiet(self, on: bool) -> None:
        """A beat said whether this instance is to fetch nothing."""
        if on and not self._quiet and not self._stopping:
            log.instance_quieted(lease=self._state.lease)
        if self._quiet and not on:
            self._appetite.more = True
        self._quiet = on
        self._changed.set()

    def suspects_seen(self) -> None:
        """A beat said that suspects wait in a queue of this instance."""
        self._saw_suspects()
        if not self._suspects_left:
            self._suspects_left = True
            self._changed.set()

    def recorded(self) -> None:
        """Outcomes are recorded: if nothing is left here, suspects may come."""
        if (self._suspects_left or self._held_until or self._only) and self._is_empty:
            self._ask_at = 0.0
            self._let_others()
            self._changed.set()

    @property
    def _only(self) -> bool:
        return self._mode in (Mode.ONLY, Mode.SHORT)

    @property
    def _is_empty(self) -> bool:
        """Whether Redis knows of no job here."""
        here = (*self._runner.running, *self._runner.buffer)
        return all(item.untracked for item in here) and self._settled()

    @property
    def _may_stand_for_suspects(self) -> bool:
        return (
            self._seat.alone
            and not self._slots.untracked
            and self._is_empty
            and not (self._suspects_left and self._loop.time() < self._ask_at)
        )

    @property
    def _has_room(self) -> bool:
        return self._appetite.room(self._loop.time())[0] > 0

    @property
    def _suspects_at(self) -> float | None:
        """When to ask for suspects; None if there is no reason to."""
        if not self._suspects_left or (self._mode is Mode.IDLE and not self._is_empty):
            return None
        return self._ask_at

    def _let_others(self) -> None:
        self._held_until = 0.0
        if self._seat.keeps:
            self._seat.let_others()

    async def mark_quiet(self) -> None:
        """Mark the lease quiet in Redis, so that a fetch already standing there takes nothing. Raises StoreUnavailableError."""
        await self._control.run(quiet(self._state.lease, True))

    @property
    def oldest_in_flight(self) -> float | None:
        """When the oldest unanswered fetch was first sent, on the loop's clock; None if there is none."""
        return min(self._in_flight.values(), default=None)

    # The loop

    async def run(self) -> None:
        """Fetch until stopped, lost, or, with `burst`, done; ends when nothing is in flight any more."""
        try:
            await self._fetch_on()
            if self._standing is not None and not self._state.lost:
                await asyncio.wait({self._standing})
                await self._end_standing()
        finally:
            if self._standing is not None:
                self._standing.cancel()
            self._over.set()

    async def _fetch_on(self) -> None:
        while not self._stopping and not self._state.lost:
            self._changed.clear()
            if self._standing is not None and self._standing.done():
                await self._end_standing()
                continue
            if self._quiet or self._state.doubtful:
                self._seat.hungry = False
                await self._wait(LATE_PAUSE_S if self._state.doubtful else None, for_due=False)
                continue
            if self._held_until:
                left_s = self._held_until - self._loop.time()
                if left_s > 0:
                    await self._wait(left_s, for_due=False)
                    continue
                self._let_others()
            want = self._appetite.want(self._loop.time(), *self._served.plan(self._slots.owned_of))
            asked = self._standing_asks if self._standing is not None and self._standing_number == self._number else 0
            due = self._due_at is not None and self._loop.time() >= self._due_at
            suspects_at = self._suspects_at
            suspects = want.start > 0 and suspects_at is not None and self._loop.time() >= suspects_at
            if ((self._appetite.more or suspects) and (want.start or want.buffer)) or due:
                # A standing fetch that may still take jobs holds its slots; one with a later number makes it stale.
                await self._fetch(self._appetite.next_fetch(want, standing=asked, suspects=suspects), want)
            elif self._burst:
                if self._slots.idle and self._settled():
                    await self._fetch(max(1, want.start), want._replace(buffer=0))
                    if self._slots.idle and not self._appetite.more and (self._limited or not self._suspects_left):
                        return
                else:
                    await self._wait(LATE_PAUSE_S)
                    self._appetite.more = True  # what runs may have enqueued what it waits for
            elif want.start and self._standing is None and (not self._only or self._may_stand_for_suspects):
                self._stand(self._appetite.next_standing(want), want)
            else:
                await self._wait(None, for_due=bool(want.queues))

    async def _wait(self, seconds: float | None, *, for_due: bool = True) -> None:
        """Until room changes, the standing fetch is answered, the next timed job is due, or `seconds` have passed."""
        if for_due:
            # The instance that holds the timer calls when it is due, even with no free place: then others get the job.
            times = [self._due_at] if self._due_at is not None else []
            if (suspects_at := self._suspects_at) is not None and self._has_room:
                times.append(suspects_at)
            for at in times:
                until = max(0.0, at - self._loop.time())
                seconds = until if seconds is None else min(seconds, until)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _next_call(self, start: int, want: Want, mode: Mode) -> tuple[int, Call[Fetched | Refusal]]:
        self._number += 1
        call = fetch(self._state.lease, self._number, start, want.buffer, want.queues, most=want.most, mode=mode)
        return self._number, call

    async def _fetch(self, start: int, want: Want) -> None:
        suspects = self._mode if self._seat.alone or self._suspects_left else Mode.NONE
        with self._seat.asking(suspects, start) as mode:
            number, call = self._next_call(start, want, mode)
            await self._answered(number, call, start)

    async def _answered(self, number: int, call: Call[Fetched | Refusal], start: int = 0) -> None:
        self._in_flight.setdefault(number, self._loop.time())
        try:
            with self._speaking_for(start):
                reply = await insist(self._store, call, self._outage, self._gave_up)
            if reply is not None:
                self._accept(reply)
                await self._heed(reply)
        finally:
            self._in_flight.pop(number, None)

    @contextlib.contextmanager
    def _speaking_for(self, start: int) -> Iterator[None]:
        """
        Keep places from the other shards while a fetch for them is under way, but not for long: a server that is slow or lost
        must not hold up the others. What it brings in the end waits for a place here, or goes back.
        """
        seat = self._seat
        if seat.alone:
            yield
            return
        left = start
        seat.asked += start

        def give_back() -> None:
            nonlocal left
            seat.asked -= left
            left = 0

        def slow() -> None:
            seat.hungry = False
            give_back()
            seat.let_others()
            self._slots.freed()

        timer = self._loop.call_later(PATIENCE_S, slow)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    def _gave_up(self) -> bool:
        return self._state.lost or self._stopping

    def _stand(self, start: int, want: Want) -> None:
        # No suspects for a process with other jobs, nor for one of several shards: others may get jobs meanwhile.
        mode = self._mode if self._may_stand_for_suspects else Mode.NONE
        self._standing_number, call = self._next_call(start, want._replace(buffer=0), mode)
        self._standing_asks = start
        self._standing_call = call
        self._in_flight[self._standing_number] = self._loop.time()
        block = self._settings.block
        if len(want.queues) < len(self._served.names):
            block = min(block, CAPPED_BLOCK_S)  # it waits for some queues only, until the others have room again
        markers = self._markers(want.queues, fresh=not self._only, suspects=self._may_stand_for_suspects)
        self._standing = self._loop.create_task(self._wait_and_accept(markers, block, call))
        self._standing.add_done_callback(lambda _: self._changed.set())

    async def _wait_and_accept(
        self, markers: list[str], block: float, call: Call[Fetched | Refusal]
    ) -> Fetched | Refusal:
        reply = await self._wait_store.wait_and_run(markers, block, call, block + self._settings.reply_timeout)
        # Here, and not when the loop above gets to it: a job that an idle worker was woken for starts before the next fetch.
        self._accept(reply)
        return reply

    async def _end_standing(self) -> None:
        standing, number = self._standing, self._standing_number
        assert standing is not None
        self._standing = None
        try:
            reply = standing.result()
        except StoreUnavailableError as error:
            self._outage.failed(error.problem)
            await asyncio.sleep(next(pauses()))
            # Its reply is missing: the same number again, until it is answered.
            await self._answered(number, self._standing_call)
            return
        except asyncio.CancelledError:
            return
        finally:
            self._in_flight.pop(number, None)
        self._outage.worked()
        await self._heed(reply)

    def _accept(self, reply: Fetched | Refusal) -> None:
        """Take in what a fetch brought."""
        if self._state.lost or not isinstance(reply, Fetched):
            return  # whatever it brought belongs to a lease that is over
        self._appetite.more = self._seat.hungry = reply.more
        self._appetite.must_start = reply.must_start
        self._limited = reply.limited
        self._suspects_left = reply.suspects or (self._only and not self._seat.alone)  # those don't stand, see below
        if reply.suspects:
            self._saw_suspects()
        if self._suspects_left:
            self._ask_at = self._loop.time() + SUSPECTS_PAUSE_S
        if not self._seat.alone:
            self._seat.suspects = reply.suspects and self._mode is Mode.FIRST
            self._slots.note_suspects()
        if reply.held:
            self._held_until = self._loop.time() + min(reply.held, FOR_EVER_S)
            if reply.jobs:
                self._seat.keep()
        self._due_at = None if reply.next_due is None else self._loop.time() + reply.next_due
        if reply.jobs and self._began is not None:
            self._began()
            self._began = None
        for job_id in reply.buried:
            log.job_buried(job_id=job_id)
        self._runner.take(reply.jobs, hand_back=self._state.doubtful or not self._seat.may_take)
        self._capped = self._served.capped(self._slots.owned_of)

    async def _heed(self, reply: Fetched | Refusal) -> None:
        """What a reply says beyond its jobs: a refusal, or that nothing could be taken now."""
        await self._pause_after(reply)
        if not self._seat.alone:
            self._slots.freed()  # places that it held and did not use are free for the others now

    async def _pause_after(self, reply: Fetched | Refusal) -> None:
        if self._state.lost:
            return
        if isinstance(reply, Fetched):
            if reply.more and not reply.jobs:
                # What is left can't wait here (it must start at once): only a freed slot helps.
                await self._wait(EMPTY_PAUSE_S if self._has_room else None)
        elif reply is Refusal.LOST:
            self._lost()
        elif reply is Refusal.QUIET:
            self.stay_quiet(True)
        elif reply is Refusal.LATE:
            self._appetite.more = True
            await asyncio.sleep(LATE_PAUSE_S)

    # Stopping

    async def stop(self, seconds: float) -> None:
        """
        Take no more jobs, and wait up to `seconds` for what is in flight.

        The lease is marked quiet in Redis first, so that a standing fetch takes nothing when its wait is ended; only
        then, if it doesn't come back, its connection is given up.
        """
        self._stopping = True
        self._changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # Without the right to unblock, the connection is given up below.
                with contextlib.suppress(StoreUnavailableError, StoreRefusedError):
                    await self.mark_quiet()
                    client_id = self._wait_link.client_id
                    if self._standing is not None and not self._standing.done() and client_id is not None:
                        await self._control.read(("CLIENT", "UNBLOCK", client_id))
                await self._over.wait()
        if self._standing is not None:
            self._standing.cancel()
