"""
Connections to Redis: sending commands, reading replies, and saying in our own errors what went wrong.

redis-py opens the connection (TLS, ACL, handshake); its retries are off, because it can't know what is safe to send
twice. Every call has one limit for all that it takes: waiting for a free link, opening it, and the replies. A link whose
call was cut short is closed: its next reply would belong to another call.

A connection that nobody used for a moment may be gone without a word (a balancer or NAT that forgets it): it is asked
first, for a second at most, and a new one takes its place. So no call is sent into the void, where nobody could say
whether it was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
import redis.asyncio.connection as aio
import redis.connection as sio
import redis.exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from ..errors import (
    InvariantError,
    MissingCommandError,
    SettingsError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
)
from ..protocol.keys import Keys
from ..settings import Settings, masked_url
from .cluster import SCHEMES as CLUSTER_SCHEMES
from .cluster import Cluster, parse_cluster_url, slot_of
from .discovery import NO_DRIVER_INFO, following
from .sentinel import SCHEMES as SENTINEL_SCHEMES
from .sentinel import Sentinels, parse_sentinel_url
from .wire import Wire, handing_over

Command = Sequence[Any]

# A link that was idle for longer than IDLE_S is asked whether it is still there, and has CHECK_S to answer.
IDLE_S = 1.0
CHECK_S = 1.0
# What a limit that has passed still gives a socket: 0 would mean that it may not wait at all.
MIN_S = 0.001
_PING: list[Command] = [("PING",)]

# What a URL's query may say about the connection; time limits and retries are ours (CASE-17).
_IGNORED_IN_URL = (
    "socket_timeout", "socket_connect_timeout", "retry_on_timeout", "retry_on_error", "health_check_interval",
    "max_connections", "decode_responses", "encoding", "encoding_errors", "timeout", "protocol", "client_name",
)  # fmt: skip

# Refusals that pass by themselves: nothing was carried out. A script's error quotes the code behind a dash.
_PASSING = re.compile(
    r"(?:^|-)(?:LOADING|READONLY|MASTERDOWN|TRYAGAIN|CLUSTERDOWN|MOVED|ASK|BUSY|NOREPLICAS|MISCONF|UNBLOCKED)\b"
    r"|non local key|max number of clients"
)
_REFUSING = re.compile(
    r"(?:^|-)(?:NOAUTH|WRONGPASS|NOPERM|DENIED)\b|invalid password|invalid username-password|DB index is out of range"
    r"|invalid DB index|user executing the script can't|ACL failure in script"
)

_MISSING = re.compile(r"unknown command|Unknown Redis command called from", re.IGNORECASE)

# redis-py strips the code off the errors that it has classes for.
_PASSING_CLASSES = (
    rex.BusyLoadingError, rex.MasterDownError, rex.TryAgainError, rex.ClusterDownError, rex.AskError, rex.MovedError,
)  # fmt: skip
_REFUSING_CLASSES = (rex.AuthenticationError, rex.NoPermissionError)


_OF_CLUSTER = ("username", "password")
_SYNC_KINDS: dict[Any, Any] = {
    aio.Connection: sio.Connection,
    aio.SSLConnection: sio.SSLConnection,
    aio.UnixDomainSocketConnection: sio.UnixDomainSocketConnection,
}


def _options_of(url: str) -> dict[str, Any]:
    """
    What redis-py reads out of a URL.

    Raises:
        SettingsError: It can't be read, or names a file that is not there.
    """
    try:
        options: dict[str, Any] = dict(aio.parse_url(url))
    except (ValueError, rex.RedisError) as error:
        raise SettingsError("redis_url", _short(error)) from None
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"):
        path = options.get(name)
        if path and not os.path.exists(path):
            raise SettingsError("redis_url", f"{name}: there is no {path}")
    return options


class Endpoint:
    """Where Redis is, as arguments of redis-py's connections. Its password is never shown."""

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        url = url or settings.redis_url
        self.shown = masked_url(url)
        self.connect_timeout = settings.connect_timeout
        self.reply_timeout = settings.reply_timeout
        sentinels: Sentinels | None = None
        hosts: list[tuple[str, int]] = []
        scheme = url.partition("://")[0]
        if scheme in SENTINEL_SCHEMES:
            sentinels, url = parse_sentinel_url(url, settings.connect_timeout)
        elif scheme in CLUSTER_SCHEMES:
            hosts, url = parse_cluster_url(url)
        options: dict[str, Any] = _options_of(url)
        for name in _IGNORED_IN_URL:
            options.pop(name, None)
        kind = options.pop("connection_class", aio.Connection)
        self._kind, self._sync_kind = handing_over(kind), _SYNC_KINDS[kind]
        if sentinels is not None:
            self._kind, self._sync_kind = following(self._kind, sentinels), following(self._sync_kind, sentinels)
        self._cluster: Cluster | None = None
        if hosts:
            names = {name: value for name, value in options.items() if name in _OF_CLUSTER or name.startswith("ssl_")}
            # A third of the time for one server, so that a connection can be opened although one of them is silent.
            self._cluster = Cluster(hosts, names, kind is aio.SSLConnection, settings.connect_timeout / 3)
        self._options = {
            **options,
            "socket_timeout": None,
            "protocol": 2,
            **NO_DRIVER_INFO,
        }

    def __repr__(self) -> str:
        return f"<Endpoint {self.shown}>"

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Redis Cluster, where each shard has its own server: see `of`."""
        return self._cluster is not None

    def doubt(self) -> None:
        """The server that it led to is not a primary, or no longer has the slot."""
        if self._cluster is not None:
            self._cluster.doubt()

    def of(self, keys: Keys) -> Endpoint:
        """Where the server is that has these keys."""
        if self._cluster is None:
            return self
        owner = self._cluster.at(slot_of(keys.tag))
        found = copy.copy(self)
        found._kind, found._sync_kind = following(self._kind, owner), following(self._sync_kind, owner)
        return found

    def connection(self) -> Any:
        """An asyncio connection that is not open yet; see `handing_over`."""
        return self._kind(
            **self._options, socket_connect_timeout=self.connect_timeout, retry=AsyncRetry(NoBackoff(), 0)
        )

    def sync_connection(self, timeout: float) -> Any:
        """The same for code without an event loop; every read and write ends after `timeout`."""
        options = {**self._options, "socket_timeout": timeout}
        connect_timeout = min(timeout, self.connect_timeout)
        return cast(
            Any,
            self._sync_kind(**options, socket_connect_timeout=connect_timeout, retry=SyncRetry(NoBackoff(), 0)),
        )


def _short(error: BaseException) -> str:
    """An error's text on one line, without the tail by which Redis 7 names the script and its line."""
    text = re.sub(r"\.? script: \w+, on @.*$", "", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def _not_connected(error: Exception, shown: str) -> TrackedQueueError:
    refusal = refused_reply(error) if isinstance(error, rex.ResponseError | rex.AuthenticationError) else None
    if isinstance(refusal, StoreRefusedError | StoreUnavailableError):
        return refusal
    # redis-py wraps a refused password into a ConnectionError of its own.
    if isinstance(error, rex.AuthenticationError) or _REFUSING.search(str(error)):
        return StoreRefusedError(f"{shown}: {_short(error)}; check the user, password and database of redis_url")
    return StoreUnavailableError(f"{shown}: {_short(error)}", may_have_run=False)


def refused_reply(error: Exception) -> TrackedQueueError:
    """What an error reply of the server means to us."""
    text = _short(error)
    if isinstance(error, rex.OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreFullError("it is at maxmemory and takes no new jobs", may_have_run=False)
    if isinstance(error, rex.ReadOnlyError):
        return StoreUnavailableError(
            "it is a replica (READONLY); redis_url must name the primary, unless a failover is under way",
            may_have_run=False,
        )
    if isinstance(error, rex.AskError):  # MOVED is one of its kind; redis-py strips the word
        verb = "has moved" if isinstance(error, rex.MovedError) else "is moving"
        return StoreUnavailableError(f"a slot of the cluster {verb}: {text}", may_have_run=False)
    if isinstance(error, _PASSING_CLASSES) or _PASSING.search(text):
        return StoreUnavailableError(text, may_have_run=False)
    if _MISSING.search(text):
        return MissingCommandError(
            f"this server lacks a command ({text}): it was renamed, or this is not Redis or Valkey; `doctor` says more"
        )
    if "DB index is out of range" in text or "invalid DB index" in text:
        return StoreRefusedError(
            f"redis_url: this server has no such database ({text}); it has `databases` of them, from 0"
        )
    if isinstance(error, _REFUSING_CLASSES) or _REFUSING.search(text):
        return StoreRefusedError(f"Redis refuses us: {text}; check the user, the password and the ACL")
    return InvariantError(f"Redis refused a command of ours: {text}")


# How an open call may fail: the reply is missing, the call may have run. uvloop raises a RuntimeError for a write to a
# connection that was cut a moment ago.
_CUT_SHORT = (
    rex.ConnectionError, rex.TimeoutError, rex.InvalidResponse, TimeoutError, OSError, EOFError, RuntimeError,
)  # fmt: skip
_CONNECT_FAILED = (rex.RedisError, TimeoutError, OSError, ValueError, RuntimeError)


def _demoted(reply: Any) -> bool:
    """Whether a reply says that this server is no longer a primary, or not the slot's."""
    return isinstance(reply, Exception) and (
        isinstance(reply, rex.ReadOnlyError | rex.MovedError | rex.ClusterDownError) or "READONLY" in str(reply)
    )


def _missing(error: BaseException, shown: str) -> StoreUnavailableError:
    if isinstance(error, rex.BusyLoadingError):
        return StoreUnavailableError(f"{shown}: {_short(error)}", may_have_run=False)
    what = "no reply in time" if isinstance(error, TimeoutError | rex.TimeoutError) else _short(error)
    return StoreUnavailableError(f"{shown}: {what}", may_have_run=True)


def _packed(commands: Sequence[Command]) -> list[bytes]:
    return list(map(hiredis.pack_command, map(tuple, commands)))


def fill_standard_descriptors() -> None:
    """
    Open what stands for the standard streams and is closed: else the next socket would have its number, and what a
    library writes to standard error would go to Redis as commands.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


class Link:
    """
    One asyncio connection; its user sends one call after another. It opens and reopens by itself.

    With `identify` it knows its number at the server, `client_id`, by which another link can end its blocking wait.
    """

    def __init__(self, endpoint: Endpoint, *, identify: bool = False) -> None:
        self._endpoint, self._identify = endpoint, identify
        self._connection = endpoint.connection()
        self._time = asyncio.get_running_loop().time
        self._wire: Wire | None = None
        self.client_id: int | None = None
        self._busy = False

    async def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """
        Send commands in one go and read their replies, an error reply as an exception object.

        Args:
            timeout: Seconds for all of it, opening the connection included; None: `reply_timeout`.

        Raises:
            StoreUnavailableError: `may_have_run` says whether anything was sent.
            StoreRefusedError: Password or ACL.
        """
        if self._busy:
            raise InvariantError("two callers use one link at the same time; their replies would be mixed up")
        self._busy = True
        try:
            seconds = self._endpoint.reply_timeout if timeout is None else timeout
            began = self._time()
            until, wire = began + seconds, self._wire
            if wire is None or not wire.usable or began - wire.used_at > IDLE_S:
                wire = await self._usable(wire, seconds)
                seconds = until - self._time()
            replies = await wire.call(_packed(commands), len(commands), seconds)
            refused = False
            for reply in replies:
                if isinstance(reply, Exception):
                    await self._heed(reply)
                    refused = True
            if refused and all(isinstance(reply, rex.MovedError) for reply in replies):
                # Nothing of it was carried out here, and the server that has the slot now is asked.
                wire = await self._reopened(until - self._time())
                replies = await wire.call(_packed(commands), len(commands), until - self._time())
            return replies
        except _CUT_SHORT as error:
            await self.close()
            raise _missing(error, self._endpoint.shown) from error
        except BaseException:
            await self.close()
            raise
        finally:
            self._busy = False

    async def _heed(self, reply: Exception) -> None:
        """What an error reply says about the connection."""
        # For redis-py a refused password is a ConnectionError; it is an answer all the same.
        if isinstance(reply, rex.ConnectionError) and not isinstance(reply, rex.AuthenticationError):
            raise reply
        if _demoted(reply):
            self._endpoint.doubt()
            await self.close()  # the name, or the Sentinels, may lead to another server by now

    async def open(self) -> None:
        """Connect if there is no usable connection; raises like `call`, with nothing sent."""
        if self._wire is None or not self._wire.usable:
            await self._reopened(self._endpoint.connect_timeout)

    async def _usable(self, wire: Wire | None, seconds: float) -> Wire:
        """This connection if it is still there, else a new one."""
        began = self._time()
        if wire is not None and wire.usable:
            with contextlib.suppress(*_CUT_SHORT):
                await wire.call(_packed(_PING), 1, min(CHECK_S, seconds / 2))
                return wire
        return await self._reopened(seconds + began - self._time())

    async def _reopened(self, seconds: float) -> Wire:
        try:
            # The server closed it while it was idle, or an unasked reply is in it.
            await self.close()
            async with asyncio.timeout(min(seconds, self._endpoint.connect_timeout)):
                await self._connection.connect()
                # redis-py before version 7 has it under another name.
                name = "can_read" if hasattr(self._connection, "can_read") else "can_read_destructive"
                if await getattr(self._connection, name)():
                    # Before anything was asked: a refusal (max clients, protected mode) or its end, which raise here.
                    reply = await self._connection.read_response(disable_decoding=True)
                    raise rex.ConnectionError(f"it said {reply!r} before it was asked")
                self._wire = wire = Wire(self._connection.hand_over())
                if self._identify:
                    (reply,) = await wire.call(_packed([("CLIENT", "ID")]), 1, math.inf)
                    if isinstance(reply, Exception):
                        await self._heed(reply)
                    self.client_id = reply if isinstance(reply, int) else None
            return wire
        except _CONNECT_FAILED as error:
            await self.close()
            raise _not_connected(error, self._endpoint.shown) from error
        except BaseException:
            await self.close()
            raise

    async def send(self, *commands: Command) -> None:
        """Send without waiting for a reply: for a subscription, whose replies `receive` brings."""
        if self._wire is None:
            raise StoreUnavailableError(f"{self._endpoint.shown}: not connected", may_have_run=False)
        try:
            self._wire.send(_packed(commands))
        except _CUT_SHORT as error:
            await self.close()
            raise _missing(error, self._endpoint.shown) from error

    async def receive(self) -> Any:
        """The next message of a subscription; waits without end. Raises StoreUnavailableError."""
        if self._wire is None:
            raise StoreUnavailableError(f"{self._endpoint.shown}: not connected", may_have_run=False)
        try:
            reply = await self._wire.receive()
            if isinstance(reply, Exception):
                await self._heed(reply)
            return reply
        except _CUT_SHORT as error:
            await self.close()
            raise _missing(error, self._endpoint.shown) from error

    async def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        self.client_id = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)


class LinkPool:
    """A bounded number of links of one event loop; callers queue for them, in order, and are handed the next that is free."""

    def __init__(self, endpoint: Endpoint, size: int) -> None:
        self._endpoint = endpoint
        self._idle: list[Link] = []
        self._size = self._left = size  # `left`: links that may still be made
        self._waiting: deque[asyncio.Future[Link]] = deque()
        self._closed = False

    async def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """See `Link.call`; waiting for a free link counts as well."""
        if self._idle:
            link = self._idle.pop()
        elif self._left:
            link = Link(self._endpoint)  # raises for a URL that redis-py can't use
            self._left -= 1
        else:
            link, timeout = await self._next(self._endpoint.reply_timeout if timeout is None else timeout)
        try:
            return await link.call(commands, timeout)
        finally:
            try:
                if self._closed:
                    await link.close()
            finally:
                self._give(link)

    async def _next(self, seconds: float) -> tuple[Link, float]:
        """The link that is handed over next, and what is left of the time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn: asyncio.Future[Link] = loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                link = await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())  # it was handed over a moment before
            if not isinstance(error, TimeoutError):
                raise
            raise StoreUnavailableError(
                f"{self._endpoint.shown}: all {self._size} connections were in use (max_connections)",
                may_have_run=False,
            ) from None
        return link, max(0.0, seconds + began - loop.time())

    def _give(self, link: Link) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(link)
                return
        self._idle.append(link)

    async def close(self) -> None:
        """Close the idle links now, and those in use when they come back."""
        self._closed = True
        for link in self._idle:
            await link.close()


class SyncLink:
    """
    A synchronous connection, guarded by a lock, reopened after a fork: each process has its own.

    A host's name is looked up by the system, whose time for that can't be limited here.
    """

    def __init__(self, endpoint: Endpoint, timeout: float | None = None) -> None:
        self._endpoint, self._timeout = endpoint, timeout or endpoint.reply_timeout
        self._lock = threading.Lock()
        self._connection = endpoint.sync_connection(self._timeout)
        self._pid = os.getpid()
        self._used_at = 0.0
        self._closes = False

    def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """See `Link.call`; `timeout` None is the link's own."""
        if self._pid != os.getpid():
            # The parent's socket must not be used, nor shut down, by its child; its lock may be held for ever.
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._connection = self._endpoint.sync_connection(self._timeout)
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        with self._lock:
            connection = self._connection
            try:
                if _is_open(connection) and not self._still_there(until):
                    self._drop()
                if not _is_open(connection):
                    self._limit(until)
                    connection.connect()
            except _CONNECT_FAILED as error:
                self._drop()
                raise _not_connected(error, self._endpoint.shown) from error
            except BaseException:
                self._drop()
                raise
            try:
                replies = self._asked(commands, until)
                if any(map(_demoted, replies)):
                    self._endpoint.doubt()
                    self._drop()
                if self._closes:
                    self._closes = False
                    self._drop()
                self._used_at = time.monotonic()
                return replies
            except _CUT_SHORT as error:
                self._drop()
                raise _missing(error, self._endpoint.shown) from error
            except BaseException:
                self._drop()
                raise

    def _still_there(self, until: float) -> bool:
        """Whether the connection is open, holds nothing unasked, and answers if it was idle."""
        now = time.monotonic()
        try:
            if self._connection.can_read(timeout=0):
                return False
            if now - self._used_at > IDLE_S:
                self._asked(_PING, now + min(CHECK_S, (until - now) / 2))
        except _CUT_SHORT:
            return False
        return True

    def _asked(self, commands: Sequence[Command], until: float) -> list[Any]:
        self._limit(until)
        self._connection.send_packed_command(_packed(commands), check_health=False)
        return [self._read(until) for _ in commands]

    def _limit(self, until: float) -> None:
        """Let whatever the connection does next end by then."""
        connection, left = self._connection, max(MIN_S, until - time.monotonic())
        connection.socket_timeout = left
        connection.socket_connect_timeout = min(left, self._endpoint.connect_timeout)
        if connection._sock is not None:
            connection._sock.settimeout(left)

    def _read(self, until: float) -> Any:
        self._limit(until)
        try:
            return self._connection.read_response(disable_decoding=True)
        except rex.AuthenticationError as error:  # for redis-py a ConnectionError; it is an answer all the same
            return error
        except rex.ConnectionError:
            raise
        except rex.ResponseError as error:
            return error

    def _drop(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.disconnect()

    def close(self) -> None:
        """Close the connection, at the end of a call that is under way; a later call opens a new one."""
        if self._pid != os.getpid():
            return
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()
        else:  # in use, by another thread or in the middle of a call of this one (a signal's handler)
            self._closes = True


def _is_open(connection: Any) -> bool:
    return connection._sock is not None
