"""One delivery of one job: a slot, a fresh context, a deadline, and whatever happens becomes its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import anyio
import msgspec

from .. import log
from ..errors import ArgumentError, IsolatedError, OwnershipLostError, SealedError, StoreFullError, UsageError
from ..model.cipher import Cipher
from ..model.codec import FORMAT, NIL, decode_options, encode_error, encode_exception, packed_list
from ..model.context import CurrentJob, current
from ..model.hooks import Hooks
from ..model.inputs import Results
from ..model.retry import Dead, Discard, Exponential, Retry, Snooze, leaves_of, meant_by, retry_delay
from ..model.task import Registry, Task
from ..protocol.text import to_bytes, to_text
from ..protocol.transitions import MAX_BATCH, Call, Delivered, NoteWord, Outcome, count_of, inputs, note
from ..settings import Settings
from .invoke import Invoke, invoker
from .isolated import class_name
from .late_limits import Binder
from .lineage import end_fork, guard, is_fork
from .processes import ProcessPool
from .slots import Slots

T = TypeVar("T")

# Jobs wait in the instance only while they would start within about this time at the rate seen lately; so long jobs
# are never hoarded.
BUFFER_S = 0.02
# The rate is measured over this time, or as soon as twice the concurrency has ended: then it is no chance that jobs which began
# together ended together.
RATE_WINDOW_S, SHORT_WINDOW_S = 0.02, 0.005
# And never more than so many times the concurrency: enough that the next fetch is answered before they have run.
BUFFER_TIMES = 3
# A buffered job that has waited for so long goes back to its queue, where another instance can take it.
MAX_BUFFERED_S = 1.0
# The rate is forgotten when nothing has ended for so long.
RATE_MEMORY_S = 0.1

UNTRACKED = b"0"


class Cause(StrEnum):
    """Why a running job was cancelled; it decides the outcome."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    DOUBT = "doubt"
    LOST = "lost"


class Recipe:
    """What every delivery of a task takes, worked out once for a worker."""

    __slots__ = ("call", "keep_ms", "max_attempts", "name", "task", "timeout")

    def __init__(self, task: Task[..., Any], call: Invoke, result_ttl: float) -> None:
        options = task.task_options
        self.task, self.call, self.name = task, call, task.name
        self.timeout, self.max_attempts = options.timeout_s, options.max_attempts
        # How long the record of an ended job stays.
        self.keep_ms = round((result_ttl if options.result_ttl_s is None else options.result_ttl_s) * 1000)


class Delivery:
    """A job in this instance, from its fetch to its outcome."""

    # Most deliveries never set these; as values of the class they cost nothing for each job.
    cause: Cause | None = None
    begun = False
    settled = False
    deadline = math.inf
    started_at = 0.0
    buffered_at = 0.0
    asyncio_task: asyncio.Task[None] | None = None
    exhausted_by: BaseException | None = None
    headers: Mapping[str, Any] = MappingProxyType({})
    context: Mapping[str, Any] | None = None
    inputs = ""
    tick_ms: int | None = None

    def __init__(self, job: Delivered, recipe: Recipe) -> None:
        self.job, self.recipe, self.task = job, recipe, recipe.task
        record = job.record
        self.attempt = count_of(record[7]) + 1 if len(record) > 7 else 1
        self.untracked = job.delivery == UNTRACKED
        self.timeout, self.max_attempts = recipe.timeout, recipe.max_attempts

    @property
    def id(self) -> str:
        """The job's id as text."""
        return to_text(self.job.id)

    def fact(self, name: str) -> str:
        """id, task, queue or delivery, for `current_job()`."""
        if name == "task":
            return self.task.name
        raw: bytes = getattr(self.job, name)
        return to_text(raw)

    def count(self, name: str) -> int:
        """A ledger before this delivery."""
        return self.job.ledger(name)

    def checkpoint(self) -> bytes:
        """What an earlier delivery stored, encoded."""
        return self.job.checkpoint


class Pools:
    """What runs jobs outside of the event loop, for all shards of a process: threads, and child processes."""

    def __init__(self, settings: Settings, setup: bytes = b"") -> None:
        self.threads = anyio.CapacityLimiter(settings.threads)
        self.processes = ProcessPool(settings.isolated_processes or os.cpu_count() or 1, setup)

    async def close(self) -> None:
        """End the child processes."""
        await self.processes.close()


class Ask(Protocol):
    """Carries out a call of a running job's, through outages; None once the lease is over."""

    async def __call__(self, call: Call[T], /) -> T | None: ...


class Runner:
    """
    Runs deliveries in `concurrency` slots; outcomes go to `settle`, and whoever fetches for it hears of room by `on_room`.

    Nothing of a job reaches the worker's own tasks: not its exceptions, BaseException included, not a stray
    CancelledError, not its context variables.
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
        self._settings, self.lease, self.state = settings, lease, state
        self._binder, self._capped = binder, capped
        self.seat = slots.join(self._fill, self.owned_of)
        self.max_payload = settings.max_payload
        self._hooks, self._ask = hooks, ask
        # By the bytes that a record holds: no name is decoded for each job.
        self._recipes: dict[bytes | None, Recipe] = {
            task.name.encode(): Recipe(task, invoker(task, hooks, pools.threads, pools.processes), settings.result_ttl)
            for task in tasks
        }
        self._settle = settle
        self.on_room: Callable[[], None] = lambda: None
        # While it is not set, a job that has ended keeps its place (see Settler.light).
        self.light: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        # Deliveries, not ids: one that ignores its cancellation may still be here when its job comes back.
        self.running: set[Delivery] = set()
        self.buffer: deque[Delivery] = deque()
        self._accepting = True
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._ended = self.ran = 0
        self._waiting, self._told_waiting = 0, False  # jobs that wait for other jobs' results
        self._rate = 0.0
        self._rate_at = self._last_end = self._loop.time()

    # Room and taking

    def room(self) -> tuple[int, int]:
        """How many jobs could start now, and how many more may wait; together at most one fetch."""
        if self.seat.slots.used > self.seat.slots.total:
            return 0, 0  # untracked jobs that could not wait on were started beyond it
        start = max(0, self.seat.free())
        target = self._buffer_target() if self.seat.may_hoard() else 0
        # Refilled in halves: one fetch for many jobs.
        free = target - len(self.buffer)
        buffer = free if free * 2 >= target else 0
        start = min(start, MAX_BATCH)
        return start, max(0, min(buffer, MAX_BATCH - start))

    def _buffer_target(self) -> int:
        now = self._loop.time()
        if now - self._last_end > RATE_MEMORY_S:
            self._rate = 0.0
        elapsed = now - self._rate_at
        many = self._ended >= 2 * self._settings.concurrency
        if elapsed >= (SHORT_WINDOW_S if many else RATE_WINDOW_S):
            self._rate = (self._rate + self._ended / elapsed) / 2
            self._ended, self._rate_at = 0, now
        return min(BUFFER_TIMES * self._settings.concurrency, int(self._rate * BUFFER_S))

    def owned_of(self, queue: bytes) -> int:
        """How many jobs of a queue are here."""
        return sum(item.job.queue == queue for item in (*self.running, *self.buffer))

    @property
    def owned(self) -> set[tuple[bytes, bytes]]:
        """(id, delivery) of everything that is here."""
        return {(item.job.id, item.job.delivery) for item in (*self.running, *self.buffer)}

    def take(self, jobs: list[Delivered], *, hand_back: bool = False) -> None:
        """Accept what a fetch brought: start it, or let it wait for a slot; or return it all unstarted."""
        known, is_open, binds, capped = self._recipes, self.seat.open, self._binder.any, self._capped
        for job in jobs:
            recipe = known.get(job.record[2])
            if recipe is None:
                self._park(job, job.task)
                continue
            delivery = Delivery(job, recipe)
            if len(job.record) > 5 and job.record[5] and not self._apply_options(delivery):
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

    def _park(self, job: Delivered, name: str) -> None:
        log.job_parked(task=name, job_id=job.id.decode("utf-8", "replace"))
        if job.delivery != UNTRACKED:
            self._settle(Outcome(job.id, job.delivery, "parked", 0, b"", ""))

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
            self._unusable(delivery, f"its keys can't be told: {_named(error)}")
        else:
            self._record(delivery, "bound", 0, bounds, "")
        return True

    def _unusable(self, delivery: Delivery, problem: str) -> None:
        log.job_unusable(task=delivery.task.name, job_id=delivery.id, problem=problem)
        self._record(delivery, "dead", 0, encode_error("ArgumentError", problem), problem[:500])

    # Running

    def _start(self, delivery: Delivery) -> None:
        self.running.add(delivery)
        self.seat.start()
        if delivery.untracked:
            self.seat.slots.untracked += 1
        delivery.started_at = self._loop.time()
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
            if not delivery.settled:
                self._returned(delivery, value)
        except BaseException as error:
            if is_fork():
                end_fork(error)
            try:
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
                    with contextlib.suppress(asyncio.CancelledError):  # its outcome is told already
                        await self.light.wait()
            finally:
                self._finish(delivery)

    def _untold(self, delivery: Delivery, error: BaseException, worse: BaseException) -> None:
        """What its error comes to can't be worked out: it is dead, with its own error, and the reason says what came on top."""
        reason = f"{_named(error)} (and what follows from it can't be told: {_named(worse)})"
        log.job_unusable(task=delivery.task.name, job_id=delivery.id, problem=reason[:300])
        self._record(delivery, "dead", 1, encode_exception(error, _OWN_FRAMES), reason[:500])

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

    async def note(self, delivery: Delivery, kind: str, value: bytes) -> None:
        """See `CurrentJob.progress`, `checkpoint` and `log`. An untracked job has no record: nothing is stored."""
        if delivery.untracked:
            return
        word = None
        if not delivery.settled and delivery.cause is not Cause.LOST:
            sealed = value if self._cipher is None else self._cipher.seal(value)
            try:
                word = await self._ask(note(self.lease, delivery.job.id, delivery.job.delivery, kind, sealed))
            except StoreFullError:
                if kind == "checkpoint":
                    raise
                log.note_dropped(task=delivery.task.name, job_id=delivery.id, kind=kind)
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
            self._disowned(delivery)
            return
        payload, keep_ms = b"", delivery.recipe.keep_ms
        if value is not None:
            problem = ""
            if keep_ms > 0 and not delivery.untracked:
                try:
                    payload = delivery.task.signature.result.encode(value)
                    if len(payload) > self._settings.max_result:
                        problem = f"result too large: {len(payload)} bytes, max_result is {self._settings.max_result}"
                except BaseException as error:  # also what a type's own code raises
                    problem = f"result not serialisable: {type(value).__qualname__}: {_named(error)}"
            elif hasattr(type(value), "__await__"):
                problem = (
                    f"result not serialisable: this {type(value).__qualname__} was not awaited, so nothing was done"
                )
            if problem:
                self._failed(delivery, "failed", encode_error("ResultError", problem), problem, 0.0)
                return
        self._record(delivery, "succeeded", keep_ms, payload, "")

    def _disowned(self, delivery: Delivery) -> None:
        """The lease was lost while this job ran: whatever it did here changes nothing any more."""
        delivery.settled = True
        log.job_fenced(job_id=delivery.id, lease=self.lease, delivery=delivery.job.delivery.decode())

    def _conclude(self, delivery: Delivery, error: BaseException, note: str = "") -> None:
        """The outcome of a delivery that raised, or did not end although it was cancelled (then `note` says so)."""
        if delivery.settled:
            return
        error = meant_by(error)
        cause = delivery.cause
        if cause is Cause.LOST:
            self._disowned(delivery)
            return
        ran_ms = self._ran_ms(delivery)
        if cause is Cause.CANCEL:
            log.job_cancelled(task=delivery.task.name, job_id=delivery.id, ran_ms=ran_ms)
            self._record(delivery, "cancelled", delivery.recipe.keep_ms, b"", "cancelled while it ran" + note)
        elif cause is not None and cause is not Cause.TIMEOUT:
            count = delivery.job.ledger("interruptions") + 1
            log.job_interrupted(task=delivery.task.name, job_id=delivery.id, ran_ms=ran_ms, interruptions=count)
            self._record(delivery, "interrupted", 0, b"", "")
        elif cause is Cause.TIMEOUT:
            text = f"the attempt took longer than its timeout of {delivery.timeout:g} s{note}"
            self._raised(delivery, TimeoutError(text), f"TimeoutError: {text}", encode_error("TimeoutError", text))
        elif isinstance(error, Snooze):
            log.job_snoozed(task=delivery.task.name, job_id=delivery.id, seconds=error.for_, reason=error.reason[:300])
            self._record(delivery, "snoozed", round(error.for_ * 1000), b"", "")
        elif isinstance(error, Discard):
            self._failed(delivery, "failed", encode_error("Discard", error.reason), f"discarded: {error.reason}", 0.0)
        elif isinstance(error, Dead):
            self._failed(delivery, "dead", encode_error("Dead", error.reason), f"set aside: {error.reason}", 0.0)
        elif isinstance(error, IsolatedError):
            self._raised(delivery, error, error.text, error.packed)
        else:
            self._raised(delivery, error, _named(error), encode_exception(error, _OWN_FRAMES))

    def _raised(self, delivery: Delivery, error: BaseException, reason: str, packed: bytes) -> None:
        """The attempt failed: again later, or not, as the task says."""
        options = delivery.task.task_options
        wanted = isinstance(error, Retry) or (
            not _is_a(error, options.give_up_on, any) and (not options.retry_on or _is_a(error, options.retry_on, all))
        )
        if not wanted:
            self._failed(delivery, "failed", packed, f"not retried: {reason}", 0.0)
        elif delivery.attempt >= delivery.max_attempts:
            why = f"attempts exhausted ({delivery.attempt} of {delivery.max_attempts}): {reason}"
            self._failed(delivery, "dead", packed, why, 0.0)
            if options.on_exhausted is not None:
                delivery.exhausted_by = error
        else:
            self._failed(delivery, "retry", packed, reason, self._retry_s(delivery, error))

    def _retry_s(self, delivery: Delivery, error: BaseException) -> float:
        if isinstance(error, Retry) and error.after is not None:
            return error.after
        try:
            return retry_delay(delivery.task.task_options.retry, delivery.attempt, error, random.random)
        except BaseException as broken:  # a function of the user's
            log.hook_failed(hook="retry", task=delivery.task.name, job_id=delivery.id, error=_named(broken)[:300])
            return Exponential().delay(delivery.attempt, random.random)

    async def _exhausted(self, delivery: Delivery) -> None:
        """Call the task's on_exhausted; whatever it does, the job is dead already."""
        hook, error = delivery.task.task_options.on_exhausted, delivery.exhausted_by
        assert hook is not None and error is not None
        try:
            async with asyncio.timeout(self._settings.cancel_grace):
                await hook(CurrentJob(delivery, self), error)
        except BaseException as broken:
            log.hook_failed(
                hook="on_exhausted", task=delivery.task.name, job_id=delivery.id, error=_named(broken)[:300]
            )

    def _failed(self, delivery: Delivery, outcome: str, packed: bytes, reason: str, retry_s: float) -> None:
        log.job_failed(
            task=delivery.task.name,
            job_id=delivery.id,
            attempt=delivery.attempt,
            ran_ms=self._ran_ms(delivery),
            error=reason[:300],
            outcome=outcome,
            retry_s=retry_s,
        )
        ms = {"failed": delivery.recipe.keep_ms, "dead": 1}.get(outcome, round(retry_s * 1000))
        self._record(delivery, outcome, ms, packed, reason[:500])

    def _record(self, delivery: Delivery, outcome: str, ms: int, payload: bytes, reason: str) -> None:
        delivery.settled = True
        if not delivery.untracked:
            if reason:
                reason = reason.encode("utf-8", "replace").decode()
            if self._cipher is not None and outcome != "bound":
                # Texts of errors may say what the arguments were; what is left says of which kind the end was.
                payload, reason = self._cipher.seal(payload), _without_text(reason)
            job = delivery.job
            self._settle(Outcome(job.id, job.delivery, outcome, ms, payload, reason, job.bound))

    def _finish(self, delivery: Delivery) -> None:
        self.running.discard(delivery)
        self.seat.end()
        if delivery.untracked:
            self.seat.slots.untracked -= 1
        now = self._loop.time()
        if now - self._last_end > RATE_MEMORY_S:
            self._rate, self._ended, self._rate_at = 0.0, 0, now
        self._ended += 1
        self.ran += 1
        self._last_end = now
        self.seat.slots.freed()

    def _fill(self) -> None:
        """A place may be free: for a job that waits here, else for a fetch."""
        while self.buffer and self.seat.open():
            self.seat.waiting -= 1
            self._start(self.buffer.popleft())
        self.on_room()

    def _ran_ms(self, delivery: Delivery) -> int:
        return round((self._loop.time() - delivery.started_at) * 1000)

    # Ending

    def cancel(self, job_id: str) -> None:
        """Somebody wishes this job's end; without effect for one that is not here or is ending already."""
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
            self._record(delivery, "unstarted", 0, b"", "")

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
        # The first cause counts: a timed-out attempt is no interruption because a shutdown came. Only a loss is graver.
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
        self._timer = self._loop.call_at(at, self._check_deadlines) if at < math.inf else None

    def _check_deadlines(self) -> None:
        """
        One timer serves all jobs: it fires at the earliest deadline that was known when it was set, and looks at
        what runs (never more than `concurrency`), instead of a timer being made and cancelled for every job.
        """
        now = self._loop.time()
        for delivery in list(self.running):
            if delivery.deadline <= now:
                if delivery.cause is None:
                    self._cancel(delivery, Cause.TIMEOUT)
                else:
                    delivery.deadline = math.inf
                    if not delivery.settled:
                        self._ignored(delivery)
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


_OWN_FRAMES = (Runner._run.__code__,)
guard(Runner._run)


_PUBLIC = re.compile(r"(?:attempts exhausted \(\d+ of \d+\): |not retried: )?[A-Za-z_][\w.]*(?=: |$)|[^:]*")


def _without_text(reason: str) -> str:
    """A reason without what an error, or the job itself, said: `attempts exhausted (3 of 3): ValueError`."""
    found = _PUBLIC.match(reason)
    return found[0] if found else ""


def _is_a(
    error: BaseException, kinds: tuple[type[BaseException], ...], which: Callable[[Iterable[bool]], bool]
) -> bool:
    """Whether an error is of one of these classes; of a group `any` or `all` of what is in it, unless the group itself is."""
    if isinstance(error, IsolatedError):
        return any(class_name(kind) in error.kinds for kind in kinds)
    return isinstance(error, kinds) or which(isinstance(leaf, kinds) for leaf in leaves_of(error))


def _fitting(delivery: Delivery, data: bytes) -> Any:
    """A result, or all of them, as the function's first parameter says. Raises ArgumentError."""
    try:
        return delivery.task.signature.decode_first(data)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(delivery.task.name, "", f"the results before it don't fit: {error}") from None


def _named(error: BaseException) -> str:
    try:
        within = "; ".join(map(_named, leaves_of(error))) if isinstance(error, BaseExceptionGroup) else ""
        return f"{type(error).__qualname__}: {error}{f' ({within})' if within else ''}"
    except BaseException:
        return type(error).__qualname__
