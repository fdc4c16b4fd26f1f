"""The last hours by the minute: a minute that is over is read once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ..reports.minutes import Minute
from ..reports.numbers import MINUTES_READ

ReadMinutes = Callable[[int, int], Awaitable[list[Minute]]]


class Minutes:
    """The last minutes of each namespace; one reading at a time, by whoever shares it (see Desk.cached)."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, Minute]] = {}

    async def last(self, namespace: str, number: int, read: ReadMinutes) -> list[Minute]:
        """The last so many minutes, the running one included, the oldest first."""
        known = self._known.setdefault(namespace, {})
        until = int(time.time()) // 60
        since = until - number + 1
        # What is still added to is read again.
        first = min([at for at in range(since, until - MINUTES_READ) if at not in known], default=until - MINUTES_READ)
        for minute in await read(max(first, since), until):
            known[minute.at] = minute
        for old in [at for at in known if at < since or at > until]:
            del known[old]
        return [known[at] for at in range(since, until + 1) if at in known]
