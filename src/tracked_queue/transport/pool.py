"""Several links that callers share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..errors import StoreUnavailableError
from .endpoint import Endpoint
from .link import Command, Link


class LinkPool:
    """A bounded number of links of one event loop; callers queue for them, in order, and are handed the next that is free."""

    def __init__(self, endpoint: Endpoint, size: int) -> None:
        self._endpoint = endpoint
        self._idle: list[Link] = []
        self._made: list[Link] = []
        self._size = self._left = size  # `left`: links that may still be made
        self._waiting: deque[asyncio.Future[Link]] = deque()
        self._closed = False

    async def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """See `Link.call`; waiting for a free link counts as well."""
        if self._idle:
            link = self._idle.pop()
        elif self._left:
            link = Link(self._endpoint)  # raises for a URL that redis-py can't use
            self._made.append(link)
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

    async def abandon(self) -> None:
        """Close all links, also those in use: their callers are taken for dead."""
        self._closed = True
        for link in self._made:
            await link.close()

    async def close(self) -> None:
        """Close the idle links now, and those in use when they come back."""
        self._closed = True
        for link in self._idle:
            await link.close()
