"""The producer's side: enqueues that share calls within an event loop, and without one; each shard has its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import EnqueueUnavailableError, NotDurableError, StoreUnavailableError, TrackedQueueError
from ..protocol.keys import Keys
from ..protocol.request import Request
from ..protocol.transitions import MAX_BATCH, MAX_BYTES, Call, Stored, enqueue
from ..settings import Settings
from ..sharding.agreement import Agreement
from ..sharding.shards import Shards
from ..transport.endpoint import Endpoint
from ..transport.pool import LinkPool
from ..transport.store import Store, SyncStore
from .results import ResultHub
from .storing import Try, not_durable, note_stand_ins, portions, resolved, storing

# Calls of the batcher that may be under way at once: while the server works on one, the next is made.
FLUSHES = 2


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Request
    deadline: float
    created: asyncio.Future[Stored]


class Clients:
    """What one event loop uses of an app, for each shard: made at first use, closed with the app."""

    def __init__(self, settings: Settings, endpoint: Endpoint, shards: Shards, layout: Agreement) -> None:
        self._endpoint, self._shards, self._layout = endpoint, shards, layout
        self.all = [
            Client(settings, endpoint.of(keys), keys, self.agree) for keys in map(shards.keys, range(shards.count))
        ]

    def of_id(self, job_id: str) -> Client:
        """The client of a job's shard."""
        return self.all[self._shards.of_id(job_id)]

    async def enqueue_many(self, requests: Sequence[Request]) -> list[Stored]:
        """
        `Client.enqueue_many` on all shards at once; each shard keeps the order of its own jobs.

        On failure, jobs in the other shards stay stored, and the error names all jobs that may be missing.
        """
        if self._shards.count == 1:
            return await self.all[0].enqueue_many(requests)
        parts = self._shards.grouped(requests, _id_of)
        replies = await asyncio.gather(
            *(self.all[shard].enqueue_many(part) for shard, part in parts.items()), return_exceptions=True
        )
        return merged(requests, list(parts.values()), replies)

    async def agree(self) -> None:
        """See Agreement.agree."""
        await self._layout.agree(self._endpoint)

    async def close(self) -> None:
        """Finish what is being sent, then close all connections."""
        for client in self.all:
            await client.close()


def _id_of(request: Request) -> str:
    return request.id


def merged(
    requests: Sequence[Request], parts: Sequence[Sequence[Request]], replies: Sequence[list[Stored] | BaseException]
) -> list[Stored]:
    """The outcomes of several shards' parts in the requests' order; raises for the parts that failed."""
    failed = [reply for reply in replies if isinstance(reply, BaseException)]
    missing = {id for error in failed if isinstance(error, _OF_JOBS) for id in error.job_ids}
    ids = tuple(request.id for request in requests if request.id in missing)
    for error in failed:
        if not isinstance(error, _OF_JOBS):
            raise error
    for error in failed:
        if isinstance(error, EnqueueUnavailableError):
            raise type(error)(error.problem, any(map(_may_have_run, failed)), ids) from error
    for error in failed:
        if isinstance(error, NotDurableError):
            raise NotDurableError(error.durability, error.seconds, ids) from error
    stored: dict[str, list[Stored]] = {}
    for part, reply in zip(parts, replies, strict=True):
        assert isinstance(reply, list)
        for request, one in zip(part, reply, strict=True):
            stored.setdefault(request.id, []).append(one)
    return [stored[request.id].pop(0) for request in requests]


_OF_JOBS = (EnqueueUnavailableError, NotDurableError)


def _may_have_run(error: BaseException) -> bool:
    return isinstance(error, EnqueueUnavailableError) and error.may_have_run


class Client:
    """What one event loop uses of one shard; before anything is stored, `opened` is awaited until it succeeds once."""

    def __init__(
        self, settings: Settings, endpoint: Endpoint, keys: Keys, opened: Callable[[], Awaitable[None]]
    ) -> None:
        self._settings, self._opened, self._is_open = settings, opened, False
        # Two pools, so that waiting for results takes no connection from an enqueue.
        self._pools = [LinkPool(endpoint, settings.max_connections) for _ in range(2)]
        self.store, self._waiting = (Store(pool, keys) for pool in self._pools)
        self.results = ResultHub(endpoint, self._waiting)
        self._queue: deque[_Waiting] = deque()
        self._flushes: set[asyncio.Task[None]] = set()
        self._alone = False  # a caller that came while there was no other is being served
        self._alone_over: asyncio.Future[None] | None = None  # done when it was served; only `close` waits

    async def close(self) -> None:
        """Finish what is being sent, then close all connections."""
        while self._flushes or self._alone:
            under_way: set[asyncio.Future[None]] = {*self._flushes}
            if self._alone:
                self._alone_over = self._alone_over or asyncio.get_running_loop().create_future()
                under_way.add(self._alone_over)
            await asyncio.wait(under_way)
        await self.results.close()
        await self._waiting.close()
        await self.store.close()

    async def abandon(self) -> None:
        """Close all connections, also those in use."""
        await self.results.close()
        for pool in self._pools:
            await pool.abandon()

    async def enqueue(self, request: Request) -> Stored:
        """
        Store one job; calls made at the same time share a call to Redis.

        Returns:
            True if it was stored, False for an id that existed, or a Conflict.

        Raises:
            EnqueueUnavailableError: No answer within `enqueue_timeout`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.enqueue_timeout
        if not (self._alone or self._flushes or self._queue):
            return await self._enqueue_alone(request, deadline)
        waiting = _Waiting(request, deadline, loop.create_future())
        self._queue.append(waiting)
        if len(self._flushes) < FLUSHES:
            self._start_flush(loop)
        return await waiting.created

    async def _enqueue_alone(self, request: Request, deadline: float) -> Stored:
        """Send at once, in this task: no other caller is there to share. Those that come meanwhile share the next."""
        self._alone = True
        try:
            (stored,), safe = await self._store(enqueue([request]), [request], deadline)
        finally:
            self._alone = False
            if self._alone_over is not None:
                self._alone_over.set_result(None)
                self._alone_over = None
        if not safe:
            raise not_durable([request], self._settings)
        return stored

    async def enqueue_many(self, requests: Sequence[Request]) -> list[Stored]:
        """Store jobs in portions, in order. On failure the jobs of earlier portions are stored."""
        created: list[Stored] = []
        stand_ins: dict[str, str] = {}
        loop = asyncio.get_running_loop()
        under_way: asyncio.Task[tuple[list[Stored], bool]] | None = None
        unsafe: list[Request] = []
        done = 0

        async def ended(task: asyncio.Task[tuple[list[Stored], bool]]) -> None:
            stored, safe = await task
            if not safe:
                unsafe.extend(requests[len(created) : len(created) + len(stored)])
            created.extend(stored)

        try:
            for laid_out in portions(requests):
                portion = laid_out
                call = enqueue(portion)
                if under_way is not None:
                    await ended(under_way)
                    note_stand_ins(stand_ins, requests[done : len(created)], created[done:])
                    if stand_ins:
                        portion = [resolved(request, stand_ins) for request in portion]
                        call = enqueue(portion)
                    done = len(created)
                deadline = loop.time() + self._settings.enqueue_timeout
                under_way = loop.create_task(self._store(call, portion, deadline))
                await asyncio.sleep(0)  # it is sent while the next portion is laid out
            if under_way is not None:
                await ended(under_way)
        except EnqueueUnavailableError as error:
            ids = tuple(request.id for request in requests[done:])
            raise type(error)(error.problem, error.may_have_run, ids) from error
        if unsafe:
            raise not_durable(unsafe, self._settings)
        return created

    def _start_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flushes.add(loop.create_task(self._flush()))

    async def _flush(self) -> None:
        flush = asyncio.current_task()
        assert flush is not None
        try:
            await self._flush_all()
        finally:
            # Not by a done callback: a caller that is woken before it would wait for a flush that has ended.
            self._flushes.discard(flush)

    def _next_batch(self) -> list[_Waiting]:
        """The jobs for one call: all tracked or none, since only tracked ones may be resent, and of one durability."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH and size < MAX_BYTES:
            if batch:
                next_one, first = self._queue[0].request, batch[0].request
                if next_one.tracked is not first.tracked or next_one.durability != first.durability:
                    break
                if next_one.more_after or first.more_after:  # it takes further calls, whose errors are its own
                    break
            waiting = self._queue.popleft()
            if not waiting.created.done():
                batch.append(waiting)
                size += waiting.request.weight()
        return batch

    async def _flush_all(self) -> None:
        while self._queue:
            batch = self._next_batch()
            if not batch:
                return
            requests = [waiting.request for waiting in batch]
            try:
                call = enqueue(requests)
                created, safe = await self._store(call, requests, batch[0].deadline)
            except EnqueueUnavailableError as error:
                for waiting in batch:
                    if not waiting.created.done():
                        waiting.created.set_exception(
                            type(error)(error.problem, error.may_have_run, (waiting.request.id,))
                        )
            except BaseException as error:
                for waiting in batch:
                    if not waiting.created.done():
                        waiting.created.set_exception(_per_caller(error))
                if not isinstance(error, Exception):
                    raise
            else:
                for waiting, one in zip(batch, created, strict=True):
                    if waiting.created.done():
                        continue
                    if safe:
                        waiting.created.set_result(one)
                    else:
                        waiting.created.set_exception(not_durable([waiting.request], self._settings))

    async def _store(
        self, call: Call[list[Stored]], requests: Sequence[Request], deadline: float
    ) -> tuple[list[Stored], bool]:
        """See `storing`."""
        steps = storing(call, requests, self._settings, asyncio.get_running_loop().time, deadline)
        try:
            step = next(steps)
            while True:
                try:
                    answer: tuple[Any, bool] | None = None
                    if not isinstance(step, Try):
                        await asyncio.sleep(step)
                    else:
                        if not self._is_open:
                            await self._open(step.tries.left)
                        if step.durable is None:
                            answer = await self.store.run(step.call, step.tries.seconds()), True
                        else:
                            answer = await self.store.run_durably(step.call, step.durable, step.tries.seconds())
                except StoreUnavailableError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return cast(tuple[list[Stored], bool], done.value)

    async def _open(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._opened()
        except TimeoutError:
            raise StoreUnavailableError("no reply in time", may_have_run=False) from None
        self._is_open = True


def _per_caller(error: BaseException) -> BaseException:
    """An error object for one of several callers, so that they don't share a traceback."""
    try:
        return type(error)(*error.args)
    except TypeError:
        return error


class SyncStores:
    """
    The synchronous stores of an app, for each shard: every call has a store of its thread to itself.

    A call that begins in the middle of another one of the same thread (in a signal's handler, in a finalizer) finds it
    taken, and gets one of its own.
    """

    def __init__(self, make: Callable[[int], SyncStore]) -> None:
        self._make, self._local = make, threading.local()
        # A thread that ends takes its stores with it. No lock: another thread could hold it when this process forks.
        self._made: weakref.WeakSet[SyncStore] = weakref.WeakSet()

    @contextlib.contextmanager
    def lent(self, shard: int) -> Iterator[SyncStore]:
        """This thread's store of a shard, for one call."""
        free: list[SyncStore] = self._local.__dict__.setdefault(str(shard), [])
        store = free.pop() if free else self._new(shard)
        try:
            yield store
        finally:
            free.append(store)

    def _new(self, shard: int) -> SyncStore:
        store = self._make(shard)
        self._made.add(store)
        return store

    def close(self) -> None:
        """Close the connections of all threads, each when its call is over."""
        for store in self._all():
            store.close()

    def _all(self) -> list[SyncStore]:
        while True:
            try:
                return list(self._made)
            except RuntimeError:  # another thread made one at this moment
                continue


def enqueue_sync(
    stores: SyncStores,
    requests: Sequence[Request],
    settings: Settings,
    shards: Shards,
    opened: Callable[[float], None],
) -> list[Stored]:
    """
    `Clients.enqueue_many` without an event loop: one shard after the other.

    Args:
        opened: Makes sure, within the seconds given, that jobs may be stored.
    """
    if shards.count == 1:
        with stores.lent(0) as store:
            return _enqueue_sync(store, requests, settings, opened)
    parts = shards.grouped(requests, _id_of)
    replies: list[list[Stored] | BaseException] = []
    for shard, part in parts.items():
        try:
            with stores.lent(shard) as store:
                replies.append(_enqueue_sync(store, part, settings, opened))
        except TrackedQueueError as error:
            replies.append(error)
    return merged(requests, list(parts.values()), replies)


def _enqueue_sync(
    store: SyncStore, requests: Sequence[Request], settings: Settings, opened: Callable[[float], None]
) -> list[Stored]:
    created: list[Stored] = []
    unsafe: list[Request] = []
    stand_ins: dict[str, str] = {}
    try:
        for laid_out in portions(requests):
            portion = [resolved(request, stand_ins) for request in laid_out] if stand_ins else laid_out
            stored, safe = _store_sync(store, portion, settings, opened)
            unsafe += [] if safe else portion
            created += stored
            note_stand_ins(stand_ins, portion, stored)
    except EnqueueUnavailableError as error:
        ids = tuple(request.id for request in requests[len(created) :])
        raise type(error)(error.problem, error.may_have_run, ids) from error
    if unsafe:
        raise not_durable(unsafe, settings)
    return created


def _store_sync(
    store: SyncStore, requests: Sequence[Request], settings: Settings, opened: Callable[[float], None]
) -> tuple[list[Stored], bool]:
    """See `storing`."""
    clock = time.monotonic
    steps = storing(enqueue(requests), requests, settings, clock, clock() + settings.enqueue_timeout)
    try:
        step = next(steps)
        while True:
            answer: tuple[Any, bool] | None = None
            try:
                if not isinstance(step, Try):
                    time.sleep(step)
                else:
                    opened(step.tries.left)
                    if step.durable is None:
                        answer = store.run(step.call, step.tries.seconds()), True
                    else:
                        answer = store.run_durably(step.call, step.durable, step.tries.seconds())
            except StoreUnavailableError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as done:
        return cast(tuple[list[Stored], bool], done.value)
