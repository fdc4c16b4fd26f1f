"""One delivery of one job: a slot, a fresh context, a deadline, and whatever happens becomes its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from .. import log
from ..errors import ArgumentError, OwnershipLostError, SealedError, StoreFullError, UsageError
from ..model.cipher import Cipher
from ..model.codec import FORMAT, NIL, decode_options, encode_error, encode_exception, packed_list
from ..model.context import CurrentJob, current
from ..model.hooks import Arrival, Hooks
from ..model.inputs import Results
from ..model.task import Registry, Task
from ..protocol.text import to_bytes, to_text
from ..protocol.times import RUN_EDGES, Field
from ..protocol.transitions import Call, FetchedJob, LateOutcome, NoteKind, NoteWord, Outcome, OutcomeKind, inputs, note
from ..settings import Settings
from .appetite import Appetite
from .delivery import UNTRACKED, Delivery, Recipe
from .inject import Shared
from .invoke import invoker
from .lanes import JobThread, Lanes
from .late_limits import Binder
from .lineage import end_fork, guard, is_fork
from .meter import METER, Gauges, Key
from .outcome import MAX_REASON, Cause, Decision, named, of_error, of_value, without_text
from .processes import ProcessPool
from .recorder import RECORDER
from .slots import Slots
from .times import WAIT_EDGES_MS, Times

T = TypeVar("T")

# A buffered job that has waited for this long goes back to its queue, where another instance can take it.
MAX_BUFFERED_S = 1.0
# The flight recorder has no room for runs that are shorter than this and succeed.
SHORT_S = 0.05
# Starts of buffered jobs that one beat carries at most.
MAX_STARTS = 50

_SUCCEEDED = OutcomeKind.SUCCEEDED
# Outcomes after which the same job runs again.
_GOES_ON = (OutcomeKind.RETRY, OutcomeKind.SNOOZED, OutcomeKind.INTERRUPTED)


class Pools:
    """What jobs of a process have in common, whatever their shard: threads, child processes, shared dependencies."""

    def __init__(self, settings: Settings, hooks: Hooks, setup: bytes = b"") -> None:
        self.lanes = Lanes(settings.threads, hooks)
        self.processes = ProcessPool(settings.isolated_processes or os.cpu_count() or 1, setup)
        self.shared = Shared(hooks)

    async def close(self) -> None:
        """End the child processes and the threads, and leave what jobs share."""
        try:
            await self.shared.close()
        finally:
            await self.processes.close()
            await self.lanes.close()


class Recipes(dict[bytes | None, Recipe]):
    """The recipe of each task, by its name as a record holds it."""

    def __init__(self, tasks: Registry, settings: Settings, hooks: Hooks, pools: Pools, times: Times) -> None:
        self._tasks, self._settings, self._hooks, self._pools, self._times = tasks, settings, hooks, pools, times
        super().__init__({task.name.encode(): self._made(task) for task in tasks})

    def late(self, name: bytes | None) -> Recipe | None:
        """The recipe of a task that was defined after the worker's start, by a module that a job imported; else None."""
        task = None if name is None else self._tasks.get(to_text(name))
        if task is not None:
            self[name] = self._made(task)
        return self.get(name)

    def _made(self, task: Task[..., Any]) -> Recipe:
        call = invoker(task, self._hooks, self._pools.processes, self._pools.shared)
        return Recipe(task, call, self._settings.result_ttl, self._times)


class Ask(Protocol):
    """Carries out a call of a running job's, through outages; None once the lease is over."""

    async def __call__(self, call: Call[T], /) -> T | None: ...


class Runner:
    """
    Runs deliveries in `concurrency` slots; outcomes go to `settle`, and `on_room` tells the fetcher that a place may be free.

    Nothing of a job reaches the worker's own tasks: not its exceptions, BaseException included, not a stray
    CancelledError, not its context variables.

    It has 30 attributes: beyond 30 Python looks each of them up in a slower way, which costs every job 4 percent.
    """

    def __init__(
        self,
        tasks: Registry,
        settings: Settings,
        lease: str,
        settle: Callable[[Outcome], None],
        hooks: Hooks,
        state: Any,
        ask: Ask,
        binder: Binder,
        slots: Slots,
        pools: Pools,
        capped: Callable[[bytes], bool] | None,
        cipher: Cipher,
    ) -> None:
        self._cipher = cipher if cipher.active else None
        self.opened = cipher.open
        self._settings, self.lease, self.state, self._lanes = settings, lease, state, pools.lanes
        self._binder, self._capped = binder, capped
        self.seat = slots.join(self._fill, self.owned_of)
        self.max_payload = settings.max_payload
        self._hooks, self._ask = hooks, ask
        self.times = Times(_count_times)
        # Keyed by the bytes that a record holds, so that no name has to be decoded for each job.
        self._recipes = Recipes(tasks, settings, hooks, pools, self.times)
        self._settle = settle
        self.on_room: Callable[[], None] = lambda: None
        # While it is not set, a job that has ended keeps its place (see Settler.light).
        self.light: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        # Deliveries, not ids: one that ignores its cancellation may still be here when its job comes back.
        self.running: set[Delivery] = set()
        self.buffer: deque[Delivery] = deque()
        self._starting: list[Delivery] = []  # what `starts` returned last
        self.late: list[LateOutcome] = []  # of deliveries that ended after the lease was lost
        self._accepting = True
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.ran = 0
        self._waiting, self._told_waiting = 0, False  # jobs that wait for other jobs' results
        self.appetite = Appetite(self.seat, settings.concurrency, self._loop.time())

    # Taking

    def owned_of(self, queue: bytes) -> int:
        """How many jobs of a queue are here."""
        return sum(item.job.queue == queue for item in (*self.running, *self.buffer))

    @property
    def owned(self) -> set[tuple[bytes, bytes]]:
        """(id, delivery) of everything that is here."""
        return {(item.job.id, item.job.delivery) for item in (*self.running, *self.buffer)}

    def take(self, jobs: list[FetchedJob], *, hand_back: bool = False) -> None:
        """Accept what a fetch brought: start it, or let it wait for a slot; or return it all unstarted."""
        known, is_open, binds, capped = self._recipes, self.seat.open, self._binder.any, self._capped
        for job in jobs:
            recipe = known.get(job.task_name) or known.late(job.task_name)
            if recipe is None:
                self._park(job, job.task)
                continue
            delivery = Delivery(job, recipe)
            if job.options and not self._apply_options(delivery):
                continue
            if binds and self._bind(delivery):
                continue
            if hand_back or not self._accepting:
                self._hand_back(delivery)
            elif capped is not None and capped(job.queue):
                self._hand_back(delivery)  # another shard has brought one of its queue meanwhile
            elif is_open():
                self._start(delivery)
            else:
                delivery.buffered_at = self._loop.time()
                self.buffer.append(delivery)
                self.seat.waiting += 1

    def _park(self, job: FetchedJob, name: str) -> None:
        log.job_parked(task=name, job_id=job.id.decode("utf-8", "replace"))
        if job.delivery != UNTRACKED:
            self._settle(Outcome(job.id, job.delivery, OutcomeKind.PARKED, 0, b"", ""))

    def _apply_options(self, delivery: Delivery) -> bool:
        """The job's own options; False if that ended the delivery."""
        try:
            options = decode_options(self.opened(delivery.job.options))
        except (msgspec.DecodeError, SealedError) as error:
            self._unusable(delivery, f"its options don't decode: {error}")
            return False
        if options.format > FORMAT:
            self._park(delivery.job, delivery.task.name)
            return False
        if options.timeout_ms is not None:
            delivery.timeout = options.timeout_ms / 1000
        if options.max_attempts is not None:
            delivery.max_attempts = options.max_attempts
        if options.headers:
            delivery.headers = options.headers
        delivery.context, delivery.inputs, delivery.tick_ms = options.context, options.inputs, options.tick_ms
        return True

    def _bind(self, delivery: Delivery) -> bool:
        """Put its task's unique key and limits on a job that lacks them; True if that ended the delivery."""
        if delivery.untracked or not self._binder.lacks(delivery.job, delivery.task):
            return False
        try:
            packed = self.opened(delivery.job.args), self.opened(delivery.job.kwargs)
            bounds = self._binder.bounds(delivery.job, delivery.task, packed, 1 if delivery.inputs else 0)
        except (ArgumentError, SealedError):
            return False  # the run will say so
        except UsageError as error:
            self._unusable(delivery, str(error))
        except Exception as error:  # a key function of the user's
            self._unusable(delivery, f"its unique key or limits can't be computed: {named(error)}")
        else:
            self._record(delivery, OutcomeKind.BOUND, 0, bounds, "")
        return True

    def _unusable(self, delivery: Delivery, problem: str) -> None:
        log.job_unusable(task=delivery.task.name, job_id=delivery.id, problem=problem)
        self._record(delivery, OutcomeKind.DEAD, 0, encode_error("ArgumentError", problem), problem)

    # Running

    def _start(self, delivery: Delivery) -> None:
        self.running.add(delivery)
        self.seat.start()
        if delivery.untracked:
            self.seat.slots.untracked += 1
        delivery.started_at = now = self._loop.time()
        job = delivery.job
        waited_ms = job.waited_ms
        if waited_ms >= 0:
            if delivery.buffered_at:
                waited_ms += round((now - delivery.buffered_at) * 1000)
            recipe = delivery.recipe
            waits = recipe.waits if job.queue == recipe.queue else self.times.waits_of(job.queue)
            waits[bisect_left(WAIT_EDGES_MS, waited_ms)] += 1
        if delivery.timeout is not None:
            delivery.deadline = delivery.started_at + delivery.timeout
            if delivery.deadline < self._timer_at:
                self._arm(delivery.deadline)
        # Named, because asyncio's numbered names cost more.
        delivery.asyncio_task = self._loop.create_task(
            self._run(delivery), name=delivery.recipe.name, context=self._context.copy()
        )

    async def _run(self, delivery: Delivery) -> None:
        # The wall: whatever is raised in here, by the job or by a type's own code in decoding and encoding, becomes
        # this job's outcome, and the slot is freed.
        called = False
        try:
            delivery.begun = True
            if delivery.cause is not None:
                # Cancelled between its start and its first step; the function is never called.
                self._conclude(delivery, asyncio.CancelledError())
                return
            if self._hooks.tracing is not None:
                delivery.span = self._hooks.tracing.running(CurrentJob(delivery, self), _arrival(delivery))
            first = (await self._inputs(delivery),) if delivery.inputs else ()
            job = delivery.job
            packed_args, packed_kwargs = self.opened(job.args), self.opened(job.kwargs)
            args, kwargs = delivery.task.signature.decode(packed_args, packed_kwargs, len(first))
            current.set(CurrentJob(delivery, self))
            if delivery.context:
                for variable in self._hooks.carry:
                    if variable.name in delivery.context:
                        variable.set(delivery.context[variable.name])
            called = True
            value = await delivery.recipe.call(first + args, kwargs)
            if delivery.thread is not None:
                await delivery.thread.end(None)
            if not delivery.settled:
                self._returned(delivery, value)
        except BaseException as error:
            if is_fork():
                end_fork(error)
            try:
                if delivery.thread is not None and not delivery.thread.ended:
                    error = await _left(delivery.thread, error)
                if not (called or delivery.settled) and isinstance(error, ArgumentError | SealedError):
                    self._unfit(delivery, error)
                else:
                    self._conclude(delivery, error)
            except BaseException as worse:
                self._untold(delivery, error, worse)
        finally:
            try:
                if delivery.exhausted_by is not None:
                    await self._exhausted(delivery)
                if self.light is not None and not self.light.is_set():
                    delivery.deadline = math.inf
                    with contextlib.suppress(asyncio.CancelledError):  # its outcome is decided already
                        await self.light.wait()
                if delivery.thread is not None and not delivery.thread.ended:  # something that it left behind took it
                    await _left(delivery.thread, asyncio.CancelledError())
            finally:
                self._finish(delivery)

    def _untold(self, delivery: Delivery, error: BaseException, worse: BaseException) -> None:
        """Its error's outcome can't be worked out: the job is dead with that error, and the reason adds the new one."""
        reason = f"{named(error)} (and its outcome can't be encoded: {named(worse)})"
        log.job_unusable(task=delivery.task.name, job_id=delivery.id, problem=reason[:300])
        self._record(delivery, OutcomeKind.DEAD, 1, encode_exception(error), reason, self._ran_ms(delivery))

    def _unfit(self, delivery: Delivery, error: ArgumentError | SealedError) -> None:
        """What is stored for it can't be turned into arguments."""
        if isinstance(error, SealedError):
            problem = f"its arguments can't be read: {error}; requeue it once the key is there"
        else:
            problem = error.problem if not error.argument else f"{error.argument}: {error.problem}"
        self._unusable(delivery, problem)

    async def _inputs(self, delivery: Delivery) -> Any:
        """The results of the jobs before this one, as its first argument: all of them, or read as they are asked for."""
        if delivery.task.signature.streams:

            async def read(first: int) -> tuple[list[Any], bool]:
                packed, more = await self._portion(delivery, first)
                return [_fitting(delivery, item) for item in packed], more

            return Results(read, self._loop)
        packed, more = await self._portion(delivery, 0)
        while more:
            further, more = await self._portion(delivery, len(packed))
            packed += further
        return _fitting(delivery, packed_list(packed) if delivery.inputs == "list" else packed[0] if packed else NIL)

    async def _portion(self, delivery: Delivery, first: int) -> tuple[list[bytes], bool]:
        found = await self._ask(inputs(delivery.job.id, first))
        if found is None:
            raise asyncio.CancelledError  # the lease is over
        packed, more = found
        return [self.opened(item) or NIL for item in packed], more

    async def note(self, delivery: Delivery, kind: NoteKind, value: bytes) -> None:
        """See `CurrentJob.progress`, `checkpoint` and `log`. An untracked job has no record: nothing is stored."""
        if delivery.untracked:
            return
        word = None
        if not delivery.settled and delivery.cause is not Cause.LOST:
            sealed = value if self._cipher is None else self._cipher.seal(value)
            try:
                word = await self._ask(note(self.lease, delivery.job.id, delivery.job.delivery, kind, sealed))
            except StoreFullError:
                if kind is NoteKind.CHECKPOINT:
                    raise
                log.note_dropped(task=delivery.task.name, job_id=delivery.id, kind=kind.value)
                return
        if word is not NoteWord.OK:
            raise OwnershipLostError(delivery.id)

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """See `CurrentJob.extend_timeout`."""
        if delivery.cause is None:
            delivery.deadline = self._loop.time() + seconds
            delivery.timeout = delivery.deadline - delivery.started_at
            if delivery.deadline < self._timer_at:
                self._arm(delivery.deadline)

    def thread(self, delivery: Delivery) -> JobThread:
        """See `CurrentJob.thread`."""
        if delivery.thread is None:
            if delivery not in self.running:
                raise UsageError("current_job().thread: the job has ended")
            delivery.thread = JobThread(self._lanes)
        return delivery.thread

    def waits(self, delivery: Delivery, more: int) -> None:
        """See `CurrentJob.waiting`."""
        self._waiting += more
        if more > 0 and self._waiting >= self._settings.concurrency and not self._told_waiting:
            self._told_waiting = True
            log.slots_waiting(task=delivery.task.name, job_id=delivery.id, slots=self._settings.concurrency)
        elif self._waiting * 2 < self._settings.concurrency:
            self._told_waiting = False

    def _returned(self, delivery: Delivery, value: Any) -> None:
        if delivery.cause is Cause.LOST:
            self._disowned(delivery, _SUCCEEDED)
            return
        keep_ms = delivery.recipe.keep_ms
        if value is None:  # as most do; of_value would decide the same, but costs more
            self._record(delivery, _SUCCEEDED, keep_ms, b"", "")
            return
        codec, max_result = delivery.task.signature.result, self._settings.max_result
        decision = of_value(value, codec, keep_ms, max_result, delivery.untracked)
        if decision.kind is _SUCCEEDED:
            self._record(delivery, _SUCCEEDED, decision.ms, decision.payload, "")
        else:
            self._decided(delivery, decision)

    def _disowned(self, delivery: Delivery, kind: OutcomeKind) -> None:
        """The lease was lost while this job ran: whatever it did here changes nothing any more."""
        delivery.settled, delivery.outcome = True, "fenced"
        if delivery.span is not None:
            delivery.span.ended("fenced")
        if not delivery.untracked:
            job = delivery.job
            self.late.append(LateOutcome(job.id, job.delivery, kind, self._ran_ms(delivery)))
        log.job_fenced(job_id=delivery.id, lease=self.lease, delivery=delivery.job.delivery.decode())
        RECORDER.write("fenced", self._loop)

    def _conclude(self, delivery: Delivery, error: BaseException, note: str = "") -> None:
        """The outcome of a delivery that raised, or did not end although it was cancelled (then `note` says so)."""
        if delivery.settled:
            return
        if delivery.cause is Cause.LOST:
            cut_short = isinstance(error, asyncio.CancelledError)
            self._disowned(delivery, OutcomeKind.INTERRUPTED if cut_short else OutcomeKind.FAILED)
            return
        options, keep_ms = delivery.task.task_options, delivery.recipe.keep_ms
        decision = of_error(error, delivery, options, keep_ms, random.random, note=note)
        if decision.broken is not None:
            log.hook_failed(
                hook="retry", task=delivery.task.name, job_id=delivery.id, error=named(decision.broken)[:300]
            )
        if options.on_exhausted is not None:
            delivery.exhausted_by = decision.spent_by
        if decision.error is not None:
            METER.failed(delivery.task.name, decision.error)
            self._tell_span(delivery, decision.error)
        self._decided(delivery, decision)
        if decision.error is not None and self._hooks.failed:
            self._tell_of_failure(delivery, decision.error, decision.kind is OutcomeKind.RETRY)

    def _tell_span(self, delivery: Delivery, error: BaseException) -> None:
        if delivery.span is not None:
            # Where payloads are encrypted, texts are left out: they may say what the arguments were.
            delivery.span.raised(error, "" if self._cipher is not None else named(error)[:MAX_REASON])

    def _tell_of_failure(self, delivery: Delivery, error: BaseException, retried: bool) -> None:
        """Call the app's on_failure; whatever they do, the outcome is recorded."""
        job = CurrentJob(delivery, self)
        for hook in self._hooks.failed:
            try:
                hook(job, error, retried)
            except BaseException as broken:
                log.hook_failed(
                    hook="on_failure", task=delivery.task.name, job_id=delivery.id, error=named(broken)[:300]
                )

    def _decided(self, delivery: Delivery, decision: Decision) -> None:
        """Log what was decided other than success, and record it."""
        kind, reason = decision.kind, decision.reason
        about: dict[str, Any] = {"task": delivery.task.name, "job_id": delivery.id}
        ran_ms = self._ran_ms(delivery)
        if kind is OutcomeKind.CANCELLED:
            log.job_cancelled(**about, ran_ms=ran_ms)
        elif kind is OutcomeKind.INTERRUPTED:
            log.job_interrupted(**about, ran_ms=ran_ms, interruptions=delivery.interruptions + 1)
        elif kind is OutcomeKind.SNOOZED:
            log.job_snoozed(**about, seconds=decision.ms / 1000, reason=reason[:300])
            reason = ""
        else:
            retry_s = decision.ms / 1000 if kind is OutcomeKind.RETRY else 0.0
            log.job_failed(
                **about,
                attempt=delivery.attempt,
                ran_ms=ran_ms,
                error=reason[:300],
                outcome=kind.value,
                retry_s=retry_s,
            )
        self._record(delivery, kind, decision.ms, decision.payload, reason, ran_ms)

    def _ran_ms(self, delivery: Delivery) -> int:
        return round((self._loop.time() - delivery.started_at) * 1000)

    async def _exhausted(self, delivery: Delivery) -> None:
        """Call the task's on_exhausted; whatever it does, the job is dead already."""
        hook, error = delivery.task.task_options.on_exhausted, delivery.exhausted_by
        assert hook is not None and error is not None
        delivery.thread = None  # the hook may have one of its own
        try:
            async with asyncio.timeout(self._settings.cancel_grace):
                await hook(CurrentJob(delivery, self), error)
                if delivery.thread is not None:
                    await delivery.thread.end(None)
        except BaseException as broken:
            if delivery.thread is not None and not delivery.thread.ended:
                broken = await _left(delivery.thread, broken)
            log.hook_failed(hook="on_exhausted", task=delivery.task.name, job_id=delivery.id, error=named(broken)[:300])

    def _record(
        self, delivery: Delivery, kind: OutcomeKind, ms: int, payload: bytes, reason: str, ran_ms: int | None = None
    ) -> None:
        delivery.settled = True
        if kind is not _SUCCEEDED:
            delivery.outcome = kind
        span = delivery.span if self._hooks.tracing is not None else None
        if not delivery.untracked:
            if reason:
                reason = reason[:MAX_REASON].encode("utf-8", "replace").decode()
            if self._cipher is not None and kind is not OutcomeKind.BOUND:
                # Texts of errors may say what the arguments were; what is left says how the job ended.
                payload, reason = self._cipher.seal(payload), without_text(reason)
            job, mark = delivery.job, span.mark if span is not None and kind in _GOES_ON else ""
            self._settle(Outcome(job.id, job.delivery, kind, ms, payload, reason, job.bound, ran_ms, mark))
        if span is not None:
            span.ended(kind.value)

    def _finish(self, delivery: Delivery) -> None:
        self.running.discard(delivery)
        self.seat.end()
        if delivery.untracked:
            self.seat.slots.untracked -= 1
        now = self._loop.time()
        self.appetite.ended(now)
        recipe, took_s = delivery.recipe, now - delivery.started_at
        recipe.runs[bisect_left(RUN_EDGES, took_s)] += 1
        if delivery.outcome or delivery.job.queue != recipe.queue:
            recipe.note(delivery.job.queue, delivery.outcome)
            self._note_run(now, delivery, took_s)
        else:  # as most are: well, and in their task's queue
            recipe.well += 1
            if took_s > SHORT_S:
                self._note_run(now, delivery, took_s)
        self.ran += 1
        self.seat.slots.freed()

    def _note_run(self, now: float, delivery: Delivery, took_s: float) -> None:
        outcome = delivery.outcome or "succeeded"
        RECORDER.events.append((now, "run", delivery.job.id, delivery.recipe.name, outcome, took_s))

    def starts(self) -> list[tuple[bytes, bytes, int]]:
        """
        Jobs that were to wait here for a place and run now: id, delivery, ms since their start. For Redis they still wait;
        they are returned until `starts_answered`.
        """
        now, found = self._loop.time(), []
        self._starting = []
        for item in self.running:
            if item.job.buffered == b"1" and not (item.start_told or item.untracked):
                self._starting.append(item)
                found.append((item.job.id, item.job.delivery, round((now - item.started_at) * 1000)))
                if len(found) == MAX_STARTS:
                    break
        return found

    def starts_answered(self) -> None:
        """Redis has what `starts` returned last."""
        for item in self._starting:
            item.start_told = True

    def _fill(self) -> None:
        """A place may be free: for a job that waits here, else for a fetch."""
        while self.buffer and self.seat.open():
            self.seat.waiting -= 1
            self._start(self.buffer.popleft())
        self.on_room()

    # Ending

    def cancel(self, job_id: str) -> None:
        """Cancel a job because somebody asked for it; no effect on one that is not here or is already ending."""
        raw = to_bytes(job_id)
        for delivery in list(self.running):
            if delivery.job.id == raw:
                self._cancel(delivery, Cause.CANCEL)
        for waiting in self.buffer:
            if waiting.job.id == raw:
                self.buffer.remove(waiting)
                self.seat.waiting -= 1
                waiting.cause = Cause.CANCEL
                waiting.started_at = self._loop.time()
                self._conclude(waiting, asyncio.CancelledError())
                return

    def stop_accepting(self) -> None:
        """Hand back what waits here, and whatever a fetch still brings; what runs goes on."""
        self._accepting = False
        self.hand_back_buffered()

    def hand_back_buffered(self, older_than_s: float = -1.0) -> None:
        """Return jobs that wait here for longer than this to the head of their queue; nothing is counted."""
        now = self._loop.time()
        if not self.buffer or now - self.buffer[0].buffered_at <= older_than_s:
            return
        while self.buffer:  # the newest first, so that the oldest ends up at the queue's head
            self.seat.waiting -= 1
            self._hand_back(self.buffer.pop())
        self.on_room()

    def _hand_back(self, delivery: Delivery) -> None:
        if delivery.untracked:
            self._start(delivery)  # it is nowhere but here, and may run once
        else:
            self._record(delivery, OutcomeKind.UNSTARTED, 0, b"", "")

    def cancel_all(self, cause: Cause) -> None:
        """Cancel everything that runs, and let go of what waits."""
        if cause is Cause.LOST:
            self._accepting = False
            self.buffer.clear()
            self.seat.waiting = 0
        else:
            self.hand_back_buffered()
        for delivery in list(self.running):
            self._cancel(delivery, cause)

    def conclude_stubborn(self) -> list[Delivery]:
        """Settle what was cancelled and has not ended, since the process is about to; returns those deliveries."""
        stubborn = [delivery for delivery in self.running if not delivery.settled]
        for delivery in stubborn:
            self._ignored(delivery)
        return stubborn

    def _cancel(self, delivery: Delivery, cause: Cause) -> None:
        # The first cause counts: a shutdown doesn't turn a timed-out attempt into an interruption. Only a loss overrides it.
        if delivery.settled or (delivery.cause is not None and cause is not Cause.LOST):
            return
        again = delivery.cause is not None
        delivery.cause = cause
        delivery.deadline = self._loop.time() + self._settings.cancel_grace
        if delivery.deadline < self._timer_at:
            self._arm(delivery.deadline)
        # Before its first step a cancel would end the task without running the wall; `_run` looks at the cause.
        if delivery.begun and delivery.asyncio_task is not None and not again:
            delivery.asyncio_task.cancel()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # Not in the context of the job that happens to arm it.
        check, context = self._check_deadlines, self._context
        self._timer = self._loop.call_at(at, check, context=context) if at < math.inf else None

    def _check_deadlines(self) -> None:
        """
        One timer serves all jobs: it fires at the earliest deadline that was known when it was set, and looks at
        what runs (never more than `concurrency`), instead of a timer being made and cancelled for every job.
        """
        now = self._loop.time()
        try:
            for delivery in list(self.running):
                if delivery.deadline <= now:
                    if delivery.cause is None:
                        self._cancel(delivery, Cause.TIMEOUT)
                    else:
                        delivery.deadline = math.inf
                        if not delivery.settled:
                            self._ignored(delivery)
        finally:  # whatever happens to one, the others have their deadlines
            self._timer = None
            self._timer_at = math.inf
            self._arm(min((delivery.deadline for delivery in self.running), default=math.inf))

    def _ignored(self, delivery: Delivery) -> None:
        """A cancelled job did not end in its cancel_grace: its outcome is recorded now, its slot stays taken."""
        cause = delivery.cause or Cause.SHUTDOWN
        delivery.cause = cause
        log.job_ignored_cancellation(
            task=delivery.task.name, job_id=delivery.id, cause=cause.value, seconds=self._settings.cancel_grace
        )
        self._conclude(delivery, asyncio.CancelledError(), "; it did not stop when it was cancelled")
        delivery.settled = True

    def close(self) -> None:
        """Drop the timer, and leave the slots to others."""
        if self._timer is not None:
            self._timer.cancel()
        self.seat.leave()

    def counted(self) -> tuple[dict[Key, float], Gauges]:
        """Runs by task, queue and outcome, and what is here now: see Meter.collect."""
        counts: dict[Key, float] = {
            ("runs", recipe.name, to_text(queue), outcome): float(count)
            for recipe in self._recipes.copy().values()  # in another thread
            for (queue, outcome), count in recipe.outcomes.items()
        }
        return counts, {"running": len(self.running), "buffered": len(self.buffer)}


guard(Runner._run)


def _count_times(field: Field, count: int) -> None:
    METER.add(f"{field.kind}_seconds", field.name, str(field.bucket), by=count)


async def _left(thread: JobThread, error: BaseException) -> BaseException:
    """Give a job's thread back after this error; returns it, or what was raised in its place."""
    try:
        await thread.end(error)
    except BaseException as instead:
        return instead
    return error


def _arrival(delivery: Delivery) -> Arrival:
    buffered_s = delivery.started_at - delivery.buffered_at if delivery.buffered_at else 0.0
    return Arrival(delivery.job.waited_ms, round(buffered_s * 1000), delivery.job.trace.decode("ascii", "replace"))


def _fitting(delivery: Delivery, data: bytes) -> Any:
    """A result, or all of them, as the function's first parameter says. Raises ArgumentError."""
    try:
        return delivery.task.signature.decode_first(data)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(delivery.task.name, "", f"the results before it don't fit: {error}") from None
