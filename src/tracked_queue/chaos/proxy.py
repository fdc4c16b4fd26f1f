"""A TCP proxy on loopback that loses replies, stands still, or cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from types import TracebackType


class Proxy:
    """Forwards to one port; the switches act on what comes from then on."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay_s = 0.0
        self.idle_limit_s = math.inf
        """A connection that was idle for longer silently stops carrying data, as behind a balancer or NAT."""
        self._used_at: dict[int, float] = {}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.drop_replies = 0
        self.answer = b""  # what every command gets instead of being forwarded
        self.frozen_connections: set[int] = set()
        self._frozen = asyncio.Event()
        self.connections = 0
        self._count = 0
        self._answerer: dict[int, asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def down(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def up(self) -> None:
        """Take connections again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def cut(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze_open_connections(self) -> None:
        """Forward nothing more on what is open (half-open); new connections are served."""
        self.frozen_connections = set(range(self._count))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._count
        self._count += 1
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except (OSError, asyncio.CancelledError):
            # A cancellation is handled like a refusal: the caller, a callback of asyncio, would print it.
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        self._answerer[number] = writer
        both = [
            asyncio.ensure_future(self._pump(number, reader, up_writer, False)),
            asyncio.ensure_future(self._pump(number, up_reader, writer, True)),
        ]
        self._tasks |= set(both)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*both, return_exceptions=True)
            self._tasks -= set(both)
            for one in (writer, up_writer):
                self._writers.discard(one)
                one.transport.abort()

    async def _pump(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool
    ) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            while data := await reader.read(65536):
                now = time.monotonic()
                if now - self._used_at.get(number, now) > self.idle_limit_s:
                    self.frozen_connections.add(number)
                self._used_at[number] = now
                if number in self.frozen_connections:
                    await asyncio.Event().wait()
                if self.answer and not replies and self._answerer.get(number):
                    self._answerer[number].write(self.answer * max(1, data.count(b"$7\r\nEVALSHA")))
                    continue
                if replies and self.drop_replies and not data.startswith((b"+OK", b"-ERR unknown sub")):
                    self.drop_replies -= 1
                    return  # the reply is lost and the connection with it
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
