"""
An open connection to Redis, from the packed command to the parsed reply: one write, one future, hiredis.

redis-py opens it (address, TLS, ACL, handshake) and hands its transport over: through its own connection and asyncio's
streams a lone call takes about twice as long. Source: docs/explanation/performance.md.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import hiredis
import redis.asyncio.connection as aio
import redis.exceptions as rex

_PARTIAL = object()
"""What hiredis gives when a reply has not come in full."""
_CLOSED = "Connection closed by server."


@functools.cache
def handing_over(kind: type[Any]) -> type[Any]:
    """A connection class of redis-py's that gives away the transport that it has opened."""

    class _HandingOver(kind):  # type: ignore[misc]
        def hand_over(self) -> asyncio.Transport:
            return cast(asyncio.Transport, self._writer.transport)

    return _HandingOver


class Wire(asyncio.Protocol):
    """
    One connection: replies come in the order of the commands, an error reply as an exception object.

    It ends with its first problem: what was waited for raises it, and `usable` is false from then on.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._parser = hiredis.Reader(
            protocolError=rex.InvalidResponse, replyError=aio.DefaultParser.parse_error, notEnoughData=_PARTIAL
        )
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._problem: Exception | None = None
        self._deadline = self._timer_at = math.inf
        self.used_at = self._loop.time()  # when something was asked or answered last
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        # Every write goes out at once: uvloop keeps what is below the limit for the end of its turn.
        transport.set_write_buffer_limits(high=0)

    @property
    def usable(self) -> bool:
        """Whether a command can be sent: it is open, and nothing that nobody asked for has come."""
        return (
            self._problem is None
            and not self._replies
            and not self._parser.has_data()
            and not self._transport.is_closing()
        )

    async def call(self, packed: Sequence[bytes], wanted: int, seconds: float) -> list[Any]:
        """
        Send, and wait up to `seconds` for `wanted` replies; one caller at a time, and only if it is usable.

        Raises:
            TimeoutError: They did not come in time.
            redis.exceptions.ConnectionError: The connection ended, or what came is no reply.
        """
        if self._problem is not None:
            raise self._problem
        if len(packed) == 1:
            self._transport.write(packed[0])
        else:
            self._transport.writelines(packed)
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter, self._wanted = waiter, wanted
        self._deadline = at = self._loop.time() + seconds
        # One timer for many calls: it stays set for an earlier one's deadline, and looks at this one's when it fires.
        if at < self._timer_at:
            self._arm(at)
        try:
            return await waiter
        finally:
            self._deadline = math.inf
            self.used_at = self._loop.time()  # it may have waited long for this

    def send(self, packed: Sequence[bytes]) -> None:
        """Send, and wait for no reply; raises what ended the connection, if something has."""
        if self._problem is not None:
            raise self._problem
        if self._transport.is_closing():
            raise rex.ConnectionError(_CLOSED)
        self._transport.writelines(packed)

    async def receive(self) -> Any:
        """The next message, whether asked for or not; raises like `call`, but waits without end."""
        if not self._replies:
            if self._problem is not None:
                raise self._problem
            self._waiter, self._wanted = self._loop.create_future(), 1
            return (await self._waiter)[0]
        return self._replies.pop(0)

    def _hand_out(self) -> None:
        waiter, wanted = self._waiter, self._wanted
        if waiter is not None and len(self._replies) >= wanted and not waiter.done():
            self._waiter = None
            waiter.set_result(self._replies[:wanted])
            del self._replies[:wanted]

    def close(self) -> None:
        """Give it up; a caller that still waits gets an error."""
        self._end(rex.ConnectionError("Connection closed by us"))
        self._transport.close()

    def _end(self, problem: Exception) -> None:
        if self._problem is None:
            self._problem = problem
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(problem)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._look_at_deadline), at

    def _look_at_deadline(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._deadline <= self._loop.time():
            self._end(TimeoutError())
        elif self._deadline < math.inf:
            self._arm(self._deadline)

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        parser = self._parser
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not _PARTIAL:
                self._replies.append(reply)
        except Exception as error:  # also an error reply whose text redis-py can't take apart
            self._end(rex.InvalidResponse(str(error)))
            self._transport.abort()
        else:
            self._hand_out()

    def eof_received(self) -> None:
        """The other side sends no more; the transport closes."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended at the other side, or by `close`."""
        said = next((str(reply) for reply in self._replies if isinstance(reply, Exception)), "")
        self._end(rex.ConnectionError(said or (str(exc) if exc is not None else _CLOSED)))
