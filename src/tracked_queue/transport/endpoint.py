"""Where Redis is, as redis-py takes it: one server, a Sentinel pair, or a cluster."""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import redis.asyncio.connection as aio
import redis.connection as sio
import redis.exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from ..errors import SettingsError
from ..protocol.keys import Keys
from ..settings import Settings, masked_url
from .cluster import SCHEMES as CLUSTER_SCHEMES
from .cluster import Cluster, parse_cluster_url, slot_of
from .discovery import NO_DRIVER_INFO, following
from .replies import short
from .sentinel import SCHEMES as SENTINEL_SCHEMES
from .sentinel import Sentinels, parse_sentinel_url
from .wire import handing_over

# What a URL's query may say about the connection; time limits and retries are ours (CASE-17).
_IGNORED_IN_URL = (
    "socket_timeout", "socket_connect_timeout", "retry_on_timeout", "retry_on_error", "health_check_interval",
    "max_connections", "decode_responses", "encoding", "encoding_errors", "timeout", "protocol", "client_name",
)  # fmt: skip
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
        raise SettingsError("redis_url", short(error)) from None
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


def fill_standard_descriptors() -> None:
    """
    Open those standard streams' descriptors that are closed: else the next socket would get such a number, and what a
    library writes to standard error would go to Redis as commands.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
