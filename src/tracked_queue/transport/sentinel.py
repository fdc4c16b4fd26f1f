"""
Asking Sentinels which server is the primary; each new connection asks, so that a failover is followed by reconnecting.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import redis.asyncio.connection as aio
import redis.connection as sio
import redis.exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from ..errors import SettingsError
from ..settings import split_url
from .discovery import NO_DRIVER_INFO, in_turn, parse_hosts

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT = 26379
_SyncConnection: Any = sio.Connection  # untyped in redis-py


class Sentinels:
    """
    The Sentinels that a URL names: `redis+sentinel://[user:password@]host1[:port],host2[:port]/service[/db][?...]`.

    User and password are the server's; the Sentinels' own go into the query, as `sentinel_username` and `sentinel_password`.
    """

    def __init__(
        self, hosts: Sequence[tuple[str, int]], service: str, options: Mapping[str, Any], seconds: float
    ) -> None:
        self.hosts, self.service, self._options, self._seconds = list(hosts), service, dict(options), seconds

    async def primary(self) -> tuple[str, int]:
        """The primary's address. Raises redis-py's ConnectionError when no Sentinel names one."""
        problems = []
        for host, port in self.hosts:
            link: Any = aio.Connection(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **self._common())
            try:
                await link.connect()
                await link.send_command("SENTINEL", "get-master-addr-by-name", self.service, check_health=False)
                return self._address(await link.read_response(), host, port)
            except (rex.RedisError, OSError, TimeoutError) as error:
                problems.append(f"{host}:{port}: {error}")
            finally:
                await link.disconnect(nowait=True)
        raise self._none(problems)

    def primary_sync(self, seconds: float) -> tuple[str, int]:
        """`primary` for code without an event loop, in this time."""
        problems: list[str] = []
        for host, port, most in in_turn(self.hosts, seconds, problems):
            link: Any = _SyncConnection(host=host, port=port, retry=SyncRetry(NoBackoff(), 0), **self._common(most))
            try:
                link.connect()
                link.send_command("SENTINEL", "get-master-addr-by-name", self.service, check_health=False)
                return self._address(link.read_response(), host, port)
            except (rex.RedisError, OSError, TimeoutError) as error:
                problems.append(f"{host}:{port}: {error}")
            finally:
                link.disconnect()
        raise self._none(problems)

    def _common(self, most: float = math.inf) -> dict[str, Any]:
        seconds = min(self._seconds, most)
        return {
            "socket_connect_timeout": seconds, "socket_timeout": seconds, "protocol": 2, **NO_DRIVER_INFO, **self._options,
        }  # fmt: skip

    def _address(self, reply: Any, host: str, port: int) -> tuple[str, int]:
        if not reply:
            raise rex.ConnectionError(f"it knows no service {self.service!r}")
        # The one that answered is asked first next time.
        self.hosts.remove((host, port))
        self.hosts.insert(0, (host, port))
        name, number = reply
        return (name.decode() if isinstance(name, bytes) else name), int(number)

    def _none(self, problems: Sequence[str]) -> rex.ConnectionError:
        return rex.ConnectionError(f"no Sentinel names the primary of {self.service!r}: {'; '.join(problems)}")


def parse_sentinel_url(url: str, seconds: float) -> tuple[Sentinels, str]:
    """
    The Sentinels of a URL, and the URL of a server with everything but its address.

    Raises:
        SettingsError: No host, no service, or a port that is no number.
    """
    parts = split_url(url)
    userinfo, at, location = parts.netloc.rpartition("@")
    hosts = parse_hosts(location, DEFAULT_PORT, "a Sentinel")
    service, _, database = unquote(parts.path.strip("/")).partition("/")
    if not service or (database and not database.isdigit()):
        raise SettingsError("redis_url", "a Sentinel URL ends with /service or /service/database")
    query = parse_qsl(parts.query)
    own = {name.removeprefix("sentinel_"): value for name, value in query if name.startswith("sentinel_")}
    if not own.keys() <= {"username", "password"}:
        raise SettingsError(
            "redis_url", "the only options for the Sentinels themselves are sentinel_username and sentinel_password"
        )
    rest = urlencode([(name, value) for name, value in query if not name.startswith("sentinel_")])
    server = f"{SCHEMES[parts.scheme]}://{userinfo}{at}primary.invalid/{database}{'?' if rest else ''}{rest}"
    return Sentinels(hosts, service, own, seconds), server
