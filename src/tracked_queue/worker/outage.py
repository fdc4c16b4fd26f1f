"""Riding out a Redis that is away: a log line when it goes, one when it is back, retries with backoff meanwhile."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from .. import log
from ..errors import StoreFullError, StoreUnavailableError
from ..protocol.transitions import Call
from ..transport import backoff
from ..transport.store import Store
from .meter import METER
from .recorder import RECORDER

T = TypeVar("T")

REMIND_S = 10.0
# A call that was under way when Redis came back may still fail; a new outage is logged after this long.
SETTLE_S = 1.0
FIRST_PAUSE_S = 0.05
# Small, so that the first job after an outage doesn't wait long.
MAX_PAUSE_S = 1.5


def pauses() -> Iterator[float]:
    """Seconds between the worker's tries."""
    return backoff.pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)


class Outage:
    """The log lines of one outage, however many parts of the instance notice it; each begins with `where`."""

    def __init__(self, where: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._where, self._clock = where, clock
        self._since: float | None = None
        self._said = 0.0
        self._restored = -math.inf

    def failed(self, problem: str) -> None:
        """A call got no answer."""
        METER.add("store_retries")
        RECORDER.events.append((time.monotonic(), "call failed", problem))
        now, problem = self._clock(), self._where + problem
        if self._since is None and now - self._restored < SETTLE_S:
            return  # another connection's call, sent before Redis was back
        if self._since is None:
            self._since = self._said = now
            log.redis_lost(problem=problem)
        elif now - self._said >= REMIND_S:
            self._said = now
            log.redis_still_away(problem=problem, seconds=now - self._since)

    def worked(self) -> None:
        """A call was answered."""
        if self._since is not None:
            self._restored = self._clock()
            METER.add("store_outage_seconds", by=self._restored - self._since)
            log.redis_restored(seconds=self._restored - self._since)
            self._since = None


async def insist(
    store: Store,
    call: Call[T] | Callable[[], Call[T]],
    outage: Outage,
    give_up: Callable[[], bool],
    timeout: float | None = None,
    *,
    while_full: bool = True,
) -> T | None:
    """
    Carry out a transition that is safe to repeat, however long it takes.

    Args:
        call: The transition, or a function that makes it anew for each try.
        while_full: Whether to wait for room where Redis is full and the transition is one that may be refused then.

    Returns:
        Its value; None when `give_up` said so between two tries.

    Raises:
        StoreFullError: Not `while_full`, and Redis is full.
    """
    tries = pauses()
    while True:
        try:
            value = await store.run(call if isinstance(call, Call) else call(), timeout)
        except StoreUnavailableError as error:
            if isinstance(error, StoreFullError) and not while_full:
                raise
            outage.failed(error.problem)
        else:
            outage.worked()
            return value
        if give_up():
            return None
        await asyncio.sleep(next(tries))
        if give_up():
            return None
