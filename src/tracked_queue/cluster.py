"""
Asking a Redis Cluster which of its servers has a slot; each new connection asks, so that a failover or a moved slot is followed
by reconnecting. redis-py's own cluster client reads the map.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio.cluster as aio_cluster
import redis.cluster as sync_cluster
import redis.exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry as SyncRetry

from .errors import SettingsError

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
DEFAULT_PORT = 6379
# Below the pauses between tries, so that whoever tries again asks again.
FRESH_S = 0.05

Address = tuple[str, int]


_SyncNode: Any = sync_cluster.ClusterNode  # untyped in redis-py


class Cluster:
    """
    The servers that a URL names, and those that they have told of: `redis+cluster://[user:password@]host1[:port],host2`.

    Args:
        options: What the servers want of a connection, as redis-py's clients take it: user, password, TLS.
        seconds: For opening a connection, and for each answer.
    """

    def __init__(self, hosts: Sequence[Address], options: Mapping[str, Any], seconds: float) -> None:
        self._seeds, self._known = list(hosts), list(hosts)
        # Without full coverage: a part of the cluster that is lost must not stop the others.
        self._options = {
            **options, "require_full_coverage": False, "protocol": 2, "driver_info": None, "socket_timeout": seconds / 3,
            "socket_connect_timeout": seconds / 3,
        }  # fmt: skip
        self._slots: Mapping[int, Sequence[Any]] = {}
        self._asked_at = -math.inf
        self._asking: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def owner(self, slot: int) -> Address:
        """
        The primary of a slot, as told a moment ago at most: a worker opens many connections at a time.

        Raises redis-py's ConnectionError when no server tells one.
        """
        async with self._asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if time.monotonic() - self._asked_at < FRESH_S:
                return self._found(slot)
            return await self._ask(slot)

    async def _ask(self, slot: int) -> Address:
        nodes = [aio_cluster.ClusterNode(host, port) for host, port in self._known]
        client: Any = aio_cluster.RedisCluster(startup_nodes=nodes, retry=AsyncRetry(NoBackoff(), 0), **self._options)
        try:
            await client.initialize()
            self._told(client)
            return self._found(slot)
        except asyncio.CancelledError:
            self._elsewhere()
            raise
        except (rex.RedisError, OSError, TimeoutError) as error:
            raise self._none(slot, error) from error
        finally:
            await client.aclose()

    def owner_sync(self, slot: int) -> Address:
        """`owner` for code without an event loop."""
        nodes = [_SyncNode(host, port) for host, port in self._known]
        try:
            client: Any = sync_cluster.RedisCluster(
                startup_nodes=nodes, retry=SyncRetry(NoBackoff(), 0), **self._options
            )
            self._told(client)
            client.close()
            return self._found(slot)
        except (rex.RedisError, OSError, TimeoutError) as error:
            raise self._none(slot, error) from error

    def at(self, slot: int) -> Owner:
        """The primary of a slot, as something to follow."""
        return Owner(self, slot)

    def _told(self, client: Any) -> None:
        self._known = list(dict.fromkeys([*((node.host, int(node.port)) for node in client.get_nodes()), *self._seeds]))
        self._slots, self._asked_at = dict(client.nodes_manager.slots_cache), time.monotonic()

    def _found(self, slot: int) -> Address:
        nodes = self._slots.get(slot)
        if not nodes:
            raise rex.ConnectionError(f"no server has slot {slot}, as the cluster tells it")
        return nodes[0].host, int(nodes[0].port)

    def _elsewhere(self) -> None:
        """A server that gives no answer must not be the one that is asked first the next time too."""
        self._known = [*self._known[1:], self._known[0]]

    def _none(self, slot: int, error: Exception) -> rex.ConnectionError:
        self._elsewhere()
        return rex.ConnectionError(f"no server of the cluster tells who has slot {slot}: {error}")


class Owner:
    """Whoever has a slot at the moment; see `sentinel.following`."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster, self._slot = cluster, slot

    async def primary(self) -> Address:
        """Its address. Raises redis-py's ConnectionError."""
        return await self._cluster.owner(self._slot)

    def primary_sync(self) -> Address:
        """`primary` for code without an event loop."""
        return self._cluster.owner_sync(self._slot)


def slot_of(tag: str) -> int:
    """The slot of everything that shares a hash tag."""
    return int(key_slot(tag.encode()))


def parse_cluster_url(url: str) -> tuple[list[Address], str]:
    """
    The addresses in a cluster URL, and the URL of one server with everything but its address.

    Raises:
        SettingsError: No host, a port that is no number, or a database other than 0, which a cluster doesn't have.
    """
    parts = urlsplit(url)
    userinfo, at, location = parts.netloc.rpartition("@")
    hosts = []
    for item in location.split(","):
        host, colon, port = item.rpartition(":") if ":" in item and not item.endswith("]") else (item, "", "")
        if not host or (colon and not port.isdigit()):
            raise SettingsError("redis_url", f"{item!r} is no host or host:port of a cluster's server")
        hosts.append((host.strip("[]"), int(port) if port else DEFAULT_PORT))
    if parts.path.strip("/") not in ("", "0"):
        raise SettingsError("redis_url", f"the database {parts.path.strip('/')!r}: a cluster has only 0")
    query = f"?{parts.query}" if parts.query else ""
    return hosts, f"{SCHEMES[parts.scheme]}://{userinfo}{at}primary.invalid/{query}"
