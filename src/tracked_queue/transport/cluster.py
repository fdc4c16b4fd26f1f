"""
Asking a Redis Cluster which of its servers has a slot; each new connection asks, so that a failover or a moved slot is followed
by reconnecting.

It uses redis-py's connections, but not its cluster client, which repeats calls by itself without knowing what is safe
to send twice. Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio.connection as aio
import redis.connection as sio
import redis.exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry as SyncRetry

from ..errors import SettingsError
from ..settings import split_url
from .discovery import NO_DRIVER_INFO, in_turn, parse_hosts

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
DEFAULT_PORT = 6379
# Shorter than the pauses between tries, so that each retry asks again.
FRESH_S = 0.05

Address = tuple[str, int]
_SyncConnection: Any = sio.Connection  # untyped in redis-py
_SyncSSLConnection: Any = sio.SSLConnection
_FAILED = (rex.RedisError, OSError, TimeoutError, ValueError)


class Cluster:
    """
    The servers that a URL names, and those that these have named: `redis+cluster://[user:password@]host1[:port],host2`.

    Args:
        options: What the servers want of a connection, as redis-py's connections take it: user, password, TLS.
        secure: TLS.
        seconds: For opening a connection and for the answer, of each server that is asked.
    """

    def __init__(self, hosts: Sequence[Address], options: Mapping[str, Any], secure: bool, seconds: float) -> None:
        self._seeds, self._known, self._seconds = list(hosts), list(hosts), seconds
        self._options = {
            **options, "protocol": 2, **NO_DRIVER_INFO, "socket_timeout": seconds, "socket_connect_timeout": seconds,
        }  # fmt: skip
        self._kind, self._sync_kind = aio.Connection, _SyncConnection
        if secure:
            self._kind, self._sync_kind = aio.SSLConnection, _SyncSSLConnection
        self._ranges: list[tuple[int, int, Address]] = []
        self._asked_at = -math.inf
        self._asking: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def owner(self, slot: int) -> Address:
        """
        The primary of a slot, from an answer at most a moment old: a worker opens many connections at a time.

        Raises redis-py's ConnectionError when no server names one.
        """
        async with self._asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if time.monotonic() - self._asked_at >= FRESH_S:
                return await self._ask(slot)
            return self._found(slot)

    def doubt(self) -> None:
        """A server said that it doesn't have the slot that the map says it has: another one is asked first the next time."""
        self._asked_at = -math.inf
        self._known = [*self._known[1:], self._known[0]]

    async def _ask(self, slot: int) -> Address:
        problems = []
        for host, port in list(self._known):
            link: Any = self._kind(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **self._options)
            try:
                await link.connect()
                await link.send_command("CLUSTER", "SLOTS", check_health=False)
                self._told(await link.read_response(), host, port)
                return self._found(slot)
            except _FAILED as error:
                problems.append(self._failed(error, host, port))
            except asyncio.CancelledError:
                self._failed(TimeoutError(), host, port)
                raise
            finally:
                await link.disconnect(nowait=True)
        raise self._none(problems)

    def owner_sync(self, slot: int, seconds: float) -> Address:
        """`owner` for code without an event loop, in this time."""
        problems: list[str] = []
        for host, port, most in in_turn(self._known, seconds, problems):
            limit = min(most, self._seconds)
            options = {**self._options, "socket_timeout": limit, "socket_connect_timeout": limit}
            link: Any = self._sync_kind(host=host, port=port, retry=SyncRetry(NoBackoff(), 0), **options)
            try:
                link.connect()
                link.send_command("CLUSTER", "SLOTS", check_health=False)
                self._told(link.read_response(), host, port)
                return self._found(slot)
            except _FAILED as error:
                problems.append(self._failed(error, host, port))
            finally:
                link.disconnect()
        raise self._none(problems)

    def at(self, slot: int) -> Owner:
        """The primary of a slot, as something to follow."""
        return Owner(self, slot)

    def _told(self, reply: Any, host: str, port: int) -> None:
        """Take in what one server said: ranges of slots, each with its primary and then its replicas."""
        ranges, known = [], [(host, port)]  # the one that answered is asked first next time
        for first, last, *servers in reply:
            addresses = [(_text(name) or host, int(number)) for name, number, *_ in servers]
            if addresses:
                ranges.append((int(first), int(last), addresses[0]))
                known += addresses
        self._ranges, self._asked_at = ranges, time.monotonic()
        self._known = list(dict.fromkeys([*known, *self._seeds]))

    def _found(self, slot: int) -> Address:
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        raise rex.ConnectionError(f"the cluster says that no server has slot {slot}")

    def _failed(self, error: Exception, host: str, port: int) -> str:
        """A server that gives no answer, or no owner of the slot, must not be asked first the next time too."""
        if self._known[0] == (host, port):
            self._known = [*self._known[1:], self._known[0]]
        return f"{host}:{port}: {error}"

    def _none(self, problems: Sequence[str]) -> rex.ConnectionError:
        return rex.ConnectionError(f"no server gave the map of the cluster: {'; '.join(problems)}")


class Owner:
    """The server that has a slot at the moment; see `following`."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster, self._slot = cluster, slot

    async def primary(self) -> Address:
        """The primary's address. Raises redis-py's ConnectionError."""
        return await self._cluster.owner(self._slot)

    def primary_sync(self, seconds: float) -> Address:
        """`primary` for code without an event loop, in this time."""
        return self._cluster.owner_sync(self._slot, seconds)


def _text(name: Any) -> str:
    """A host's name; empty where the server says that it is its own (7.0 and later, with an unknown endpoint)."""
    text = name.decode() if isinstance(name, bytes) else name or ""
    return "" if text == "?" else text


def slot_of(tag: str) -> int:
    """The slot of everything that shares a hash tag."""
    return int(key_slot(tag.encode()))


def parse_cluster_url(url: str) -> tuple[list[Address], str]:
    """
    The addresses in a cluster URL, and the URL of one server with everything but its address.

    Raises:
        SettingsError: No host, a port that is no number, or a database other than 0, which a cluster doesn't have.
    """
    parts = split_url(url)
    userinfo, at, location = parts.netloc.rpartition("@")
    hosts = parse_hosts(location, DEFAULT_PORT, "a cluster's server")
    if parts.path.strip("/") not in ("", "0"):
        raise SettingsError("redis_url", f"the database {parts.path.strip('/')!r}: a cluster has only 0")
    query = f"?{parts.query}" if parts.query else ""
    return hosts, f"{SCHEMES[parts.scheme]}://{userinfo}{at}primary.invalid/{query}"
