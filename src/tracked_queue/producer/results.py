"""Waiting for results: one subscription for all waiters of an event loop and shard, and what an outcome means to a caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..errors import (
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    ResultLeftOutError,
    SealedError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
    UnreadableResultError,
)
from ..model.cipher import Cipher
from ..model.codec import decode_any, decode_error
from ..protocol.states import ENDED, State
from ..protocol.text import to_bytes
from ..protocol.transitions import MAX_BATCH, Ended, await_end
from ..transport.backoff import client_pauses
from ..transport.endpoint import Endpoint
from ..transport.link import Link
from ..transport.replies import refused_reply
from ..transport.store import Store

# All jobs that are waited for are looked at this often, in case a notice was missed or a record is gone.
LOOK_S = 1.5
# A subscription that is not confirmed in this time is on a connection that has died silently; it gets another.
CONFIRM_S = 1.0
# Seconds for the last look at a record, when a waiter's time is up.
LAST_LOOK_S = 0.5


class ResultHub:
    """
    Waits for the ends of jobs: one connection subscribed to the channels of the jobs that are waited for.

    A waiter subscribes first, then asks with `await`, and asks again after each reconnect: a notice that was missed
    costs nothing. In addition, all jobs that are waited for are looked at now and then, in one call, which also serves
    users who may not subscribe. The subscription is pinged with each look: a connection that has died silently is
    replaced. The channel is sharded (SSUBSCRIBE) where the server has that, as the scripts publish.
    """

    def __init__(self, endpoint: Endpoint, store: Store) -> None:
        self._link = Link(endpoint)
        self._store = store
        self._verb = "SSUBSCRIBE"
        self._waiters: dict[bytes, set[asyncio.Event]] = {}
        self._job_ids: dict[bytes, str] = {}
        self._subscribed: dict[bytes, asyncio.Event] = {}
        self._leaving: Counter[bytes] = Counter()  # unsubscriptions of ours that are not answered yet
        self._reader: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self._connected = self._closed = False
        self._heard = True  # since the last look

    async def close(self) -> None:
        """End the subscription; callers that still wait get an error."""
        self._closed = True
        tasks = [task for task in (self._reader, self._looker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reader = self._looker = None
        self._connected = False
        self._wake_all()
        await self._link.close()

    async def wait(self, job_id: str, timeout: float | None) -> Ended:
        """
        The outcome of a job.

        Raises:
            TimeoutError: It has not ended in time, as a last look at its record has shown.
            JobNotFoundError: There is no record.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._wait(job_id)
        except TimeoutError:
            pass
        with contextlib.suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                reply = await self._store.run(await_end(job_id), LAST_LOOK_S)
                if isinstance(reply, Ended):
                    return reply
                if not reply:
                    raise JobNotFoundError(job_id)
        raise TimeoutError(f"job {job_id} has not ended within {timeout:g} s") from None

    @contextlib.asynccontextmanager
    async def notices(self, job_id: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """Subscribe to a job while it is open; what it yields waits for the next message, up to the seconds given."""
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
        channel = to_bytes(self._store.keys.channel_of(job_id))
        notice = asyncio.Event()
        self._waiters.setdefault(channel, set()).add(notice)
        self._job_ids[channel] = job_id
        if self._looker is None or self._looker.done():
            self._looker = asyncio.get_running_loop().create_task(self._look())
        try:
            await self._subscribe(channel)
            yield notice
        finally:
            waiters = self._waiters[channel]
            waiters.discard(notice)
            if not waiters:
                del self._waiters[channel], self._job_ids[channel]
                await self._unsubscribe(channel)

    async def _wait(self, job_id: str) -> Ended:
        pauses = client_pauses()
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
        try:
            async with asyncio.timeout(CONFIRM_S):
                await confirmed.wait()
        except TimeoutError:
            # The waiter asks all the same; the reader opens another connection, and subscribes to all.
            if self._connected:
                await self._link.close()

    async def _unsubscribe(self, channel: bytes) -> None:
        self._subscribed.pop(channel, None)
        if self._connected:
            verb = "SUNSUBSCRIBE" if self._verb == "SSUBSCRIBE" else "UNSUBSCRIBE"
            self._leaving[channel] += 1
            with contextlib.suppress(StoreUnavailableError):
                await self._link.send((verb, channel))

    async def _read(self) -> None:
        pauses = client_pauses()
        while True:
            try:
                await self._link.open()
                channels = list(self._subscribed)
                self._connected = self._heard = True
                self._leaving.clear()
                for channel in channels:
                    await self._link.send((self._verb, channel))
                while True:
                    self._take(await self._link.receive())
                    self._heard = True
                    pauses = client_pauses()
            except StoreUnavailableError:
                # Also where the server answers, but no longer has the slot: the next connection goes to its new server.
                self._connected = False
                await self._link.close()
                for confirmed in self._subscribed.values():
                    confirmed.clear()
                await asyncio.sleep(next(pauses))
            except StoreRefusedError:
                # Each waiter asks now, and gets the refusal as its own error.
                self._connected = False
                self._wake_all()
                return

    async def _look(self) -> None:
        """While anybody waits: look at the states of all their jobs, and whether the subscription lives."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._waiters:
                return
            await self._ping()
            try:
                await self._look_at_jobs()
            except StoreUnavailableError:
                continue
            except TrackedQueueError:
                self._wake_all()  # each waiter asks now, and gets the refusal as its own error

    async def _look_at_jobs(self) -> None:
        channels = list(self._waiters)
        for at in range(0, len(channels), MAX_BATCH):
            # Some may have left since.
            portion = [channel for channel in channels[at : at + MAX_BATCH] if channel in self._job_ids]
            states = await self._store.read_fields([self._job_ids[channel] for channel in portion], "state")
            for channel, (state,) in zip(portion, states, strict=True):
                if state is None or state in _ENDS:
                    self._notify(channel)

    async def _ping(self) -> None:
        if not self._connected:
            return
        heard, self._heard = self._heard, False
        if not heard:  # nor an answer to the last ping
            await self._link.close()
            return
        with contextlib.suppress(StoreUnavailableError):
            await self._link.send(("PING",))

    def _notify(self, channel: bytes) -> None:
        for notice in self._waiters.get(channel, ()):
            notice.set()

    def _wake_all(self) -> None:
        for event in list(self._subscribed.values()):
            event.set()
        for channel in self._waiters:
            self._notify(channel)

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            if "unknown command" in str(message).lower() and self._verb == "SSUBSCRIBE":
                self._verb = "SUBSCRIBE"  # Redis 6.2
                raise StoreUnavailableError("it has no sharded channels", may_have_run=False)
            raise refused_reply(message)
        if not isinstance(message, list):
            return  # the answer to a ping, while there is no subscription
        kind, channel = message[0], message[1]
        if kind in (b"unsubscribe", b"sunsubscribe"):
            if self._leaving[channel] > 1:
                self._leaving[channel] -= 1
            elif channel in self._leaving:
                del self._leaving[channel]  # the answer to ours; somebody may have subscribed anew meanwhile
            elif channel in self._subscribed:
                raise StoreUnavailableError("its slot has moved", may_have_run=False)
        if kind in (b"subscribe", b"ssubscribe"):
            confirmed = self._subscribed.get(channel)
            if confirmed is not None:
                confirmed.set()
        if kind in (b"message", b"smessage", b"subscribe", b"ssubscribe"):
            self._notify(channel)


_ENDS = frozenset(state.value.encode() for state in ENDED)


def value_of(job_id: str, ended: Ended, codec: Any, cipher: Cipher) -> Any:
    """
    A succeeded job's value, or the error that says how it ended.

    Raises:
        SealedError: No key opens the value.
        UnreadableResultError: It doesn't fit the type that is expected here.
        ResultLeftOutError: It was not stored.
    """
    if ended.state == State.SUCCEEDED:
        if ended.left_out:
            raise ResultLeftOutError(job_id, ended.left_out)
        try:
            data = cipher.open(ended.result or b"")
        except SealedError as sealed:
            raise SealedError(f"the result of job {job_id} can't be read: {sealed}") from None
        try:
            return codec.decode(data) if codec is not None and data else decode_any(data)
        except Exception as broken:  # a type's own code may raise anything
            raise UnreadableResultError(job_id, ended.task, str(broken)) from broken
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
