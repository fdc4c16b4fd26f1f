"""
The producer's side within one event loop: enqueues that share calls, and waiting for results on one subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from .cipher import Cipher
from .codec import decode_any, decode_error, decode_extras, encode_extras
from .errors import (
    EnqueueUnavailableError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    NotDurableError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from .job import State
from .keys import Keys
from .layout import Layout
from .link import Endpoint, Link, LinkPool, refused_reply
from .retry import pauses
from .settings import Settings
from .shards import Shards
from .store import Durable, Store, SyncStore
from .task import Request
from .transitions import MAX_BATCH, MAX_BYTES, Call, Conflict, Ended, Stored, await_end, enqueue

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0
# Calls of the batcher that may be under way at once: while the server works on one, the next is made.
FLUSHES = 2
# A waiter looks at its job this often even if no push comes: a net for a job whose record is gone.
NET_S = 30.0


def _pauses() -> Iterator[float]:
    return pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)


def portions(requests: Sequence[Request]) -> list[list[Request]]:
    """The requests cut into calls of at most MAX_BATCH jobs and about MAX_BYTES."""
    cut: list[list[Request]] = []
    size = 0
    for request in requests:
        weight = request.weight()
        full = not cut or len(cut[-1]) >= MAX_BATCH or size + weight > MAX_BYTES
        if full or cut[-1][-1].durability != request.durability:
            cut.append([])
            size = 0
        cut[-1].append(request)
        size += weight
    return cut


def note_stand_ins(known: dict[str, str], requests: Sequence[Request], stored: Sequence[Stored]) -> None:
    """Note which jobs of a call were not stored because another one holds their unique key, and which that is."""
    for request, one in zip(requests, stored, strict=False):
        if isinstance(one, Conflict) and one.word != "unknown":
            known[request.id] = one.id


def resolved(request: Request, stand_ins: Mapping[str, str]) -> Request:
    """A request that comes after the jobs which stand for those that were not stored; within a call the script sees to it."""
    if not request.extras:
        return request
    extras = decode_extras(request.extras)
    after = extras.get("after")
    if not after or stand_ins.keys().isdisjoint(after):
        return request
    extras["after"] = [stand_ins.get(id, id) for id in after]
    return msgspec.structs.replace(request, extras=encode_extras(extras))


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Request
    deadline: float
    created: asyncio.Future[Stored]


class Clients:
    """What one event loop uses of an app, for each shard: made at first use, closed with the app."""

    def __init__(self, settings: Settings, endpoint: Endpoint, shards: Shards, layout: Layout) -> None:
        self._settings, self._endpoint, self._shards, self._layout = settings, endpoint, shards, layout
        self.all = [
            Client(settings, endpoint.of(keys), keys, self._agree) for keys in map(shards.keys, range(shards.count))
        ]
        self._agreeing = asyncio.Lock()

    def of_id(self, job_id: str) -> Client:
        """That of a job's shard."""
        return self.all[self._shards.of_id(job_id)]

    async def enqueue_many(self, requests: Sequence[Request]) -> list[Stored]:
        """
        `Client.enqueue_many` over all shards at a time; each keeps the order of its own.

        On failure what other shards store is stored, and the error names all jobs that may be missing.
        """
        if self._shards.count == 1:
            return await self.all[0].enqueue_many(requests)
        parts = by_shard(self._shards, requests)
        replies = await asyncio.gather(
            *(self.all[shard].enqueue_many(part) for shard, part in parts.items()), return_exceptions=True
        )
        return merged(requests, list(parts.values()), replies)

    async def _agree(self) -> None:
        """See Layout.agree; callers that come at the same time ask once."""
        if self._layout.agreed:
            return
        async with self._agreeing:
            await self._layout.agree(self._run_apart)

    async def _run_apart(self, keys: Keys, call: Call[T]) -> T:
        link = Link(self._endpoint.of(keys))
        try:
            return await Store(link, keys).run(call)
        finally:
            await link.close()

    async def close(self) -> None:
        """Finish what is being sent, then close all connections."""
        for client in self.all:
            await client.close()


def by_shard(shards: Shards, requests: Sequence[Request]) -> dict[int, list[Request]]:
    """Requests by their shards, each in the order given."""
    parts: dict[int, list[Request]] = {}
    for request in requests:
        parts.setdefault(shards.of_id(request.id), []).append(request)
    return parts


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
            raise EnqueueUnavailableError(error.problem, any(map(_may_have_run, failed)), ids) from error
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
    """What one event loop uses of one shard; `opened` is awaited before something is stored."""

    def __init__(
        self, settings: Settings, endpoint: Endpoint, keys: Keys, opened: Callable[[], Awaitable[None]]
    ) -> None:
        self._settings, self._opened = settings, opened
        self.store = Store(LinkPool(endpoint, settings.max_connections), keys)
        self.results = ResultHub(endpoint, self.store)
        self._queue: deque[_Waiting] = deque()
        self._flushes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what is being sent, then close all connections."""
        while self._flushes:
            await asyncio.wait(self._flushes)
        await self.results.close()
        await self.store.close()

    async def enqueue(self, request: Request) -> Stored:
        """
        Store one job; calls made at the same time share a call to Redis.

        Returns:
            True if it was stored, False for an id that existed, or a Conflict.

        Raises:
            EnqueueUnavailableError: No answer within `enqueue_timeout`.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.time() + self._settings.enqueue_timeout, loop.create_future())
        self._queue.append(waiting)
        if len(self._flushes) < FLUSHES:
            self._start_flush(loop)
        return await waiting.created

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
            for portion in portions(requests):
                call = enqueue(portion)
                if under_way is not None:
                    await ended(under_way)
                    note_stand_ins(stand_ins, requests[done:], created[done:])
                    if stand_ins:
                        call = enqueue([resolved(request, stand_ins) for request in portion])
                    done = len(created)
                deadline = loop.time() + self._settings.enqueue_timeout
                under_way = loop.create_task(self._insist(call, portion, deadline))
                await asyncio.sleep(0)  # it is sent while the next portion is laid out
            if under_way is not None:
                await ended(under_way)
        except EnqueueUnavailableError as error:
            ids = tuple(request.id for request in requests[done:])
            raise type(error)(error.problem, error.may_have_run, ids) from error
        if unsafe:
            raise _not_durable(unsafe, self._settings)
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
        """What one call takes: tracked jobs or untracked ones, since only the former may be sent twice; of one durability."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH and size < MAX_BYTES:
            if batch:
                next_one, first = self._queue[0].request, batch[0].request
                if next_one.tracked is not first.tracked or next_one.durability != first.durability:
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
                created, safe = await self._insist(call, requests, batch[0].deadline)
            except EnqueueUnavailableError as error:
                for waiting in batch:
                    if not waiting.created.done():
                        waiting.created.set_exception(
                            EnqueueUnavailableError(error.problem, error.may_have_run, (waiting.request.id,))
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
                        waiting.created.set_exception(_not_durable([waiting.request], self._settings))

    async def _insist(
        self, call: Call[list[Stored]], requests: Sequence[Request], deadline: float
    ) -> tuple[list[Stored], bool]:
        """
        Send until answered or the deadline; a resend adds nothing, since the store knows the ids.

        Returns:
            What was stored, and whether it is as safe as was asked.
        """
        loop = asyncio.get_running_loop()
        pauses = _pauses()
        ran = False
        while True:
            try:
                left = min(max(0.05, deadline - loop.time()), self._settings.reply_timeout)
                durable = durable_of(requests, self._settings)
                await self._opened()
                if durable is None:
                    return await self.store.run(call, timeout=left), True
                return await self.store.run_durably(call, durable, left)
            except StoreUnavailableError as error:
                ran = ran or error.may_have_run
                pause = next(pauses)
                if _give_up(error, requests) or loop.time() + pause >= deadline:
                    raise _enqueue_error(error, ran, requests) from error
            await asyncio.sleep(pause)


def durable_of(requests: Sequence[Request], settings: Settings) -> Durable | None:
    """What a batch of requests of one durability waits for beyond the server's memory."""
    if requests[0].durability == "memory":
        return None
    return Durable(requests[0].durability, settings.durability_replicas, settings.durability_timeout)


def _not_durable(requests: Sequence[Request], settings: Settings) -> NotDurableError:
    ids = tuple(request.id for request in requests)
    return NotDurableError(requests[0].durability, settings.durability_timeout, ids)


def _per_caller(error: BaseException) -> BaseException:
    """An error object for one of several callers, so that they don't share a traceback."""
    try:
        return type(error)(*error.args)
    except TypeError:
        return error


def _give_up(error: StoreUnavailableError, requests: Sequence[Request]) -> bool:
    # An untracked job is forgotten when it is fetched; sent again after a lost reply it could run twice.
    untracked = error.may_have_run and not all(request.tracked for request in requests)
    return untracked or isinstance(error, StoreFullError)


def _enqueue_error(error: StoreUnavailableError, ran: bool, requests: Sequence[Request]) -> EnqueueUnavailableError:
    return EnqueueUnavailableError(error.problem, ran, tuple(request.id for request in requests))


def enqueue_sync(
    store_of: Callable[[int, str], SyncStore],
    requests: Sequence[Request],
    settings: Settings,
    shards: Shards,
    opened: Callable[[], None],
) -> list[Stored]:
    """
    `Clients.enqueue_many` without an event loop: one shard after the other.

    Args:
        store_of: This thread's store of a shard, for jobs of a durability.
    """
    if shards.count == 1:
        return _enqueue_sync(store_of, 0, requests, settings, opened)
    parts = by_shard(shards, requests)
    replies: list[list[Stored] | BaseException] = []
    for shard, part in parts.items():
        try:
            replies.append(_enqueue_sync(store_of, shard, part, settings, opened))
        except _OF_JOBS as error:
            replies.append(error)
    return merged(requests, list(parts.values()), replies)


def _enqueue_sync(
    store_of: Callable[[int, str], SyncStore],
    shard: int,
    requests: Sequence[Request],
    settings: Settings,
    opened: Callable[[], None],
) -> list[Stored]:
    created: list[Stored] = []
    unsafe: list[Request] = []
    stand_ins: dict[str, str] = {}
    for portion in portions(requests):
        store = store_of(shard, portion[0].durability)
        deadline, pauses, ran = time.monotonic() + settings.enqueue_timeout, _pauses(), False
        durable = durable_of(portion, settings)
        call = enqueue([resolved(request, stand_ins) for request in portion] if stand_ins else portion)
        while True:
            try:
                opened()
                if durable is None:
                    done = store.run(call)
                    break
                done, safe = store.run_durably(call, durable)
                unsafe += [] if safe else portion
                break
            except StoreUnavailableError as error:
                ran = ran or error.may_have_run
                pause = next(pauses)
                if _give_up(error, portion) or time.monotonic() + pause >= deadline:
                    raise _enqueue_error(error, ran, requests[len(created) :]) from error
            time.sleep(pause)
        created += done
        note_stand_ins(stand_ins, portion, done)
    if unsafe:
        raise _not_durable(unsafe, settings)
    return created


class ResultHub:
    """
    Waits for the ends of jobs: one connection subscribed to the channels of the jobs that are waited for.

    A waiter subscribes first, then asks with `await`, and asks again after each reconnect: a notice that was missed
    costs nothing. Without the right to subscribe it asks now and then. The channel is sharded (SSUBSCRIBE) where the
    server has that, as the scripts publish.
    """

    def __init__(self, endpoint: Endpoint, store: Store) -> None:
        self._link = Link(endpoint)
        self._store = store
        self._verb = "SSUBSCRIBE"
        self._waiters: dict[bytes, set[asyncio.Event]] = {}
        self._subscribed: dict[bytes, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._connected = self._closed = False

    async def close(self) -> None:
        """End the subscription; whoever still waits gets an error."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None
        self._connected = False
        self._wake_all()
        await self._link.close()

    async def wait(self, job_id: str, timeout: float | None) -> Ended:
        """
        The outcome of a job.

        Raises:
            TimeoutError: It has not ended in time.
            JobNotFoundError: There is no record.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._wait(job_id)
        except TimeoutError:
            raise TimeoutError(f"job {job_id} has not ended within {timeout:g} s") from None

    @contextlib.asynccontextmanager
    async def notices(self, job_id: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """While it is open, the server tells of the job; what it yields waits for the next word, at most so long."""
        async with self._listening(job_id) as notice:
            with contextlib.suppress(StoreUnavailableError):  # then the watcher sees it when it looks by itself
                await self._store.run(await_end(job_id))

            async def wait(seconds: float) -> None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await notice.wait()
                notice.clear()

            yield wait

    @contextlib.asynccontextmanager
    async def _listening(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        channel = self._store.keys.named("ended", job_id).encode("utf-8", "surrogateescape")
        notice = asyncio.Event()
        self._waiters.setdefault(channel, set()).add(notice)
        try:
            await self._subscribe(channel)
            yield notice
        finally:
            waiters = self._waiters[channel]
            waiters.discard(notice)
            if not waiters:
                del self._waiters[channel]
                await self._unsubscribe(channel)

    async def _wait(self, job_id: str) -> Ended:
        pauses = _pauses()
        async with self._listening(job_id) as notice:
            while True:
                if self._closed:
                    raise StoreUnavailableError("the app was closed while a result was waited for", may_have_run=False)
                notice.clear()
                try:
                    reply = await self._store.run(await_end(job_id))
                except StoreUnavailableError:
                    await asyncio.sleep(next(pauses))
                    continue
                if isinstance(reply, Ended):
                    return reply
                if not reply:
                    raise JobNotFoundError(job_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(NET_S if self._connected else MAX_PAUSE_S):
                        await notice.wait()

    async def _subscribe(self, channel: bytes) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())
        confirmed = self._subscribed.get(channel)
        if confirmed is None:
            confirmed = self._subscribed[channel] = asyncio.Event()
            if self._connected:
                with contextlib.suppress(StoreUnavailableError):  # the reader reconnects and subscribes to all
                    await self._link.send((self._verb, channel))
        await confirmed.wait()

    async def _unsubscribe(self, channel: bytes) -> None:
        self._subscribed.pop(channel, None)
        if self._connected:
            verb = "SUNSUBSCRIBE" if self._verb == "SSUBSCRIBE" else "UNSUBSCRIBE"
            with contextlib.suppress(StoreUnavailableError):
                await self._link.send((verb, channel))

    async def _read(self) -> None:
        pauses = _pauses()
        while True:
            try:
                await self._link.open()
                channels = list(self._subscribed)
                self._connected = True
                for channel in channels:
                    await self._link.send((self._verb, channel))
                while True:
                    self._take(await self._link.receive())
                    pauses = _pauses()
            except StoreUnavailableError:
                self._connected = False
                for confirmed in self._subscribed.values():
                    confirmed.clear()
                await asyncio.sleep(next(pauses))
            except StoreRefusedError:
                # Each waiter asks now, and gets the refusal as its own error.
                self._connected = False
                self._wake_all()
                return

    def _wake_all(self) -> None:
        for event in list(self._subscribed.values()):
            event.set()
        for waiters in self._waiters.values():
            for notice in waiters:
                notice.set()

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            if "unknown command" in str(message).lower() and self._verb == "SSUBSCRIBE":
                self._verb = "SUBSCRIBE"  # Redis 6.2
                raise StoreUnavailableError("it has no sharded channels", may_have_run=False)
            raise refused_reply(message)
        kind, channel = message[0], message[1]
        if kind in (b"subscribe", b"ssubscribe"):
            confirmed = self._subscribed.get(channel)
            if confirmed is not None:
                confirmed.set()
        if kind in (b"message", b"smessage", b"subscribe", b"ssubscribe"):
            for notice in self._waiters.get(channel, ()):
                notice.set()


def value_of(job_id: str, ended: Ended, codec: Any, cipher: Cipher) -> Any:
    """A succeeded job's value, or the error that says how it ended. Raises SealedError for a value that no key opens."""
    if ended.state == State.SUCCEEDED:
        data = cipher.open(ended.result or b"")
        return codec.decode(data) if codec is not None and data else decode_any(data)
    if ended.state == State.CANCELLED:
        raise JobCancelledError(job_id)
    error = decode_error(cipher.peek(ended.error))
    raise JobFailedError(
        job_id,
        ended.state.value,
        ended.reason,
        error.type if error else "",
        error.message if error else "",
        error.traceback if error else "",
    )
