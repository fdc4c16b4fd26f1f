"""The whole fleet on one screen: read once for all who look, and at most a second old."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from ..reports.instances import ActiveJob, InstanceReport, read_active, read_all_instances
from ..reports.queues import Overview, read_overview
from ..transport.store import Store
from .explain import problems_of
from .explanation import Explanation

CACHE_S = 1.0
# A reading is kept for so many times as long as it took, so that lookers cost Redis and this process a fiftieth at most.
TIMES_AS_LONG = 50
# Of how many instances, those with the most jobs, how many jobs are shown.
MOST_INSTANCES, MOST_JOBS = 20, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Queues, instances, what is wrong (the gravest first), and jobs that run, the oldest first; `at` is when it was read."""

    at: datetime
    overview: Overview
    instances: tuple[InstanceReport, ...]
    problems: tuple[Explanation, ...]
    active: tuple[ActiveJob, ...]


async def take_picture(stores: Sequence[Store]) -> Picture:
    """Read it. Raises StoreUnavailableError, StoreRefusedError."""
    overview = await read_overview(stores)
    instances = await read_all_instances(stores)
    busy = sorted((item for item in instances if item.owned), key=lambda item: -item.owned)[:MOST_INSTANCES]
    active = [one for item in busy for one in await read_active(stores[item.shard], item.lease, MOST_JOBS)]
    return Picture(
        at=datetime.now(UTC),
        overview=overview,
        instances=tuple(instances),
        problems=tuple(await problems_of(stores, overview)),
        active=tuple(sorted(active, key=lambda one: -(one.age_s or 0.0))),
    )


T = TypeVar("T")


class Shared(Generic[T]):
    """
    One reading for all who ask within `seconds`, or within TIMES_AS_LONG of what it took; those who come while it is being read
    wait for that one. A failure is theirs too, so that nobody waits for a server that is away once for each who asks.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], seconds: float = CACHE_S) -> None:
        self._read, self._seconds = read, seconds
        # A lock belongs to one event loop, and an app may be used in several.
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
        self._until, self._last = 0.0, list[T]()
        self._failure: Exception | None = None

    async def get(self) -> T:
        """A reading that is as fresh as that. Raises what reading it raises."""
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            began = time.monotonic()
            if began > self._until:
                failure: Exception | None = None
                try:
                    self._last = [await self._read()]
                except Exception as error:
                    failure = error
                ended = time.monotonic()
                self._failure = failure
                self._until = ended + (CACHE_S if failure else max(self._seconds, TIMES_AS_LONG * (ended - began)))
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            return self._last[0]
