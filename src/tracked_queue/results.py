"""Waiting for results: one subscription for all waiters of an event loop and shard, and what an outcome means to a caller."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from .cipher import Cipher
from .codec import decode_any, decode_error
from .errors import (
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    SealedError,
    StoreRefusedError,
    StoreUnavailableError,
)
from .job import State
from .link import Endpoint, Link, refused_reply
from .retry import pauses
from .store import Store
from .transitions import Ended, await_end

# A waiter looks at its job this often even if no push comes: a net for a job whose record is gone.
NET_S = 30.0
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0


def client_pauses() -> Iterator[float]:
    """Seconds between a producer's or a waiter's tries."""
    return pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)


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
        pauses = client_pauses()
        while True:
            try:
                await self._link.open()
                channels = list(self._subscribed)
                self._connected = True
                for channel in channels:
                    await self._link.send((self._verb, channel))
                while True:
                    self._take(await self._link.receive())
                    pauses = client_pauses()
            except StoreUnavailableError:
                # Also where the server answers, but has the slot no more: the next connection goes to the one that has it.
                await self._link.close()
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
        if kind == b"sunsubscribe" and channel in self._subscribed:
            raise StoreUnavailableError("its slot has moved", may_have_run=False)
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
        try:
            data = cipher.open(ended.result or b"")
        except SealedError as sealed:
            raise SealedError(f"the result of job {job_id} can't be read: {sealed}") from None
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
