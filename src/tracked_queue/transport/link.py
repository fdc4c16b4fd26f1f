"""
Connections to Redis: sending commands, reading replies, and saying in our own errors what went wrong.

redis-py opens the connection (TLS, ACL, handshake); its retries are off, because it can't know what is safe to send
twice. Every call has one limit for all that it takes: waiting for a free link, opening it, and the replies. A link whose
call was cut short is closed: its next reply would belong to another call.

A connection that was idle for a moment may have died silently (a balancer or NAT forgot it): it is tested first, for a
second at most, and replaced if it is dead. So no call is sent on a dead connection, which would leave it unknown
whether the call was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.exceptions as rex

from ..errors import (
    InvariantError,
    StoreUnavailableError,
)
from .endpoint import Endpoint
from .replies import CONNECT_FAILED, CUT_SHORT, demoted, missing, not_connected
from .wire import Wire

Command = Sequence[Any]
# A link that was idle for longer than IDLE_S is asked whether it is still there, and has CHECK_S to answer.
IDLE_S = 1.0
CHECK_S = 1.0
# Seconds that a socket still gets once the limit has passed: 0 would mean that it may not wait at all.
MIN_S = 0.001
PING: list[Command] = [("PING",)]


def packed(commands: Sequence[Command]) -> list[bytes]:
    """The commands as they go over the wire."""
    return list(map(hiredis.pack_command, map(tuple, commands)))


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
            replies = await wire.call(packed(commands), len(commands), seconds)
            refused = False
            for reply in replies:
                if isinstance(reply, Exception):
                    await self._heed(reply)
                    refused = True
            if refused and all(isinstance(reply, rex.MovedError) for reply in replies):
                # Nothing of it was carried out here, and the server that has the slot now is asked.
                wire = await self._reopened(until - self._time())
                replies = await wire.call(packed(commands), len(commands), until - self._time())
            return replies
        except CUT_SHORT as error:
            await self.close()
            raise missing(error, self._endpoint.shown) from error
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
        if demoted(reply):
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
            with contextlib.suppress(*CUT_SHORT):
                await wire.call(packed(PING), 1, min(CHECK_S, seconds / 2))
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
                    (reply,) = await wire.call(packed([("CLIENT", "ID")]), 1, math.inf)
                    if isinstance(reply, Exception):
                        await self._heed(reply)
                    self.client_id = reply if isinstance(reply, int) else None
            return wire
        except CONNECT_FAILED as error:
            await self.close()
            raise not_connected(error, self._endpoint.shown) from error
        except BaseException:
            await self.close()
            raise

    async def send(self, *commands: Command) -> None:
        """Send without waiting for a reply: for a subscription, whose replies `receive` brings."""
        if self._wire is None:
            raise StoreUnavailableError(f"{self._endpoint.shown}: not connected", may_have_run=False)
        try:
            self._wire.send(packed(commands))
        except CUT_SHORT as error:
            await self.close()
            raise missing(error, self._endpoint.shown) from error

    async def receive(self) -> Any:
        """The next message of a subscription; waits without end. Raises StoreUnavailableError."""
        if self._wire is None:
            raise StoreUnavailableError(f"{self._endpoint.shown}: not connected", may_have_run=False)
        try:
            reply = await self._wire.receive()
            if isinstance(reply, Exception):
                await self._heed(reply)
            return reply
        except CUT_SHORT as error:
            await self.close()
            raise missing(error, self._endpoint.shown) from error

    async def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        self.client_id = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)
