"""Connections that ask a Sentinel or a cluster where to connect, each time they connect."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import redis.asyncio.connection as aio

from ..errors import SettingsError

# How redis-py's connections are told to say nothing about themselves: another name before version 7.
NO_DRIVER_INFO: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(aio.AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


def parse_hosts(location: str, default_port: int, what: str) -> list[tuple[str, int]]:
    """
    The addresses in `host1[:port],host2`.

    Raises:
        SettingsError: No host, or a port that is not a number; `what` says of what.
    """
    hosts = []
    for item in location.split(","):
        host, colon, port = item.rpartition(":") if ":" in item and not item.endswith("]") else (item, "", "")
        if not host or (colon and not port.isdigit()):
            raise SettingsError("redis_url", f"{item!r} is not a host or host:port of {what}")
        hosts.append((host.strip("[]"), int(port) if port else default_port))
    return hosts


def in_turn(
    servers: Sequence[tuple[str, int]], seconds: float, problems: list[str]
) -> Iterator[tuple[str, int, float]]:
    """Servers to ask without an event loop, each with half of the time left; `problems` notes if none is left."""
    until = time.monotonic() + seconds
    for host, port in list(servers):  # the one that answers is moved to the front
        left = until - time.monotonic()
        if left <= 0:
            problems.append("no time left to ask the others")
            return
        yield host, port, left / 2


class Followed(Protocol):
    """Something that knows where the primary is."""

    async def primary(self) -> tuple[str, int]: ...

    def primary_sync(self, seconds: float) -> tuple[str, int]: ...


def following(kind: type[Any], followed: Followed) -> type[Any]:
    """A connection class of redis-py's that asks where to connect, each time it does."""
    if issubclass(kind, aio.AbstractConnection):

        class _Following(kind):  # type: ignore[misc]
            async def _connect(self) -> None:
                self.host, self.port = await followed.primary()
                await super()._connect()

        return _Following

    class _FollowingSync(kind):  # type: ignore[misc]
        def _connect(self) -> Any:
            self.host, self.port = followed.primary_sync(self.socket_connect_timeout)
            return super()._connect()

    return _FollowingSync
