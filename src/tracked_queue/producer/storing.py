"""
Storing a batch: what is sent, how long and how often, and what an answer or its absence means. It does no I/O.

`storing` yields what is to be done next, and is sent the answers; Client does it on an event loop, and enqueue_sync without
one. Source: lua/enqueue.lua, lua/follow.lua.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..errors import (
    EnqueueFullError,
    EnqueueUnavailableError,
    NotDurableError,
    StoreFullError,
    StoreUnavailableError,
)
from ..model.options import AFTER_AT_ONCE
from ..protocol.packing import decode_extras, encode_extras
from ..protocol.request import Request
from ..protocol.transitions import MAX_BATCH, MAX_BYTES, Call, Conflict, ConflictWord, FollowWord, Stored, follow
from ..settings import Settings
from ..transport.backoff import client_pauses
from ..transport.store import Durable

T = TypeVar("T")

# Seconds that the last try gets at least.
MIN_TRY_S = 0.05
# A time limit of up to this is not divided between tries.
SHORT_TRY_S = 1.0


def portions(requests: Sequence[Request]) -> list[list[Request]]:
    """The requests cut into calls of at most MAX_BATCH jobs and about MAX_BYTES."""
    cut: list[list[Request]] = []
    size = 0
    for request in requests:
        weight = request.weight()
        full = not cut or len(cut[-1]) >= MAX_BATCH or size + weight > MAX_BYTES
        if full or cut[-1][-1].durability != request.durability:
            cut.append([])
            size = 0
        cut[-1].append(request)
        size += weight
    return cut


def note_stand_ins(known: dict[str, str], requests: Sequence[Request], stored: Sequence[Stored]) -> None:
    """Note which jobs of a call were not stored because another one holds their unique key, and which that is."""
    for request, one in zip(requests, stored, strict=False):
        if isinstance(one, Conflict) and one.word in (ConflictWord.HELD, ConflictWord.REPLACED):
            known[request.id] = one.id


def resolved(request: Request, stand_ins: Mapping[str, str]) -> Request:
    """The request, coming after the stand-ins of jobs that were not stored; within one call the script does this."""
    if not request.extras:
        return request
    extras = decode_extras(request.extras)
    after = extras.get("after")
    if not after or stand_ins.keys().isdisjoint([*after, *request.more_after]):
        return request
    extras["after"] = [stand_ins.get(id, id) for id in after]
    more_after = tuple(stand_ins.get(id, id) for id in request.more_after)
    return msgspec.structs.replace(request, extras=encode_extras(extras), more_after=more_after)


def further(
    requests: Sequence[Request], stored: Sequence[Stored]
) -> Iterator[tuple[int, Request, Call[FollowWord | Conflict]]]:
    """
    The calls that name the jobs which stored ones come after, beyond those in their enqueue; each with its place in the batch.
    When one is answered with a Conflict the rest of that job's do nothing.
    """
    stand_ins: dict[str, str] = {}
    note_stand_ins(stand_ins, requests, stored)
    for place, request in enumerate(requests):
        ids = [stand_ins.get(id, id) for id in request.more_after] if isinstance(stored[place], bool) else []
        for at in range(0, len(ids), MAX_BATCH):
            portion, first = ids[at : at + MAX_BATCH], AFTER_AT_ONCE + at
            wants = min(max(0, request.wants - first), len(portion))
            yield place, request, follow(request.id, first, wants, portion, last=at + MAX_BATCH >= len(ids))


_more_after = attrgetter("more_after")


class Try(NamedTuple):
    """One call, to be carried out within `tries.seconds()`; its answer is its value, and whether that is as safe as asked."""

    call: Call[Any]
    durable: Durable | None
    tries: Tries


# What to do next: a call, or a pause in seconds. A StoreUnavailableError from the call is thrown into the generator.
Steps = Generator[Try | float, Any, T]


def storing(
    call: Call[list[Stored]],
    requests: Sequence[Request],
    settings: Settings,
    clock: Callable[[], float],
    deadline: float,
) -> Steps[tuple[list[Stored], bool]]:
    """
    Store a batch, and name what did not fit into its call: further jobs that one comes after. Each call has its own time.

    Args:
        deadline: When the call of the batch has to be answered; seconds of `clock`.

    Returns:
        What was stored, and whether it is as safe as was asked.

    Raises:
        EnqueueUnavailableError: No answer in time.
    """
    stored, safe = yield from _insisting(call, requests, settings, clock, deadline)
    if any(map(_more_after, requests)):
        for place, request, more in further(requests, stored):
            try:
                until = clock() + settings.enqueue_timeout
                word, is_safe = yield from _insisting(more, [request], settings, clock, until)
            except EnqueueUnavailableError as error:  # of what is stored already
                raise type(error)(error.problem, True, error.job_ids) from error
            safe = safe and is_safe
            if isinstance(word, Conflict):
                stored[place] = word
    return stored, safe


def _insisting(
    call: Call[T], requests: Sequence[Request], settings: Settings, clock: Callable[[], float], deadline: float
) -> Steps[tuple[T, bool]]:
    """Send until answered or the deadline; a resend adds nothing, since the store knows the ids."""
    tries = Tries(requests, settings, clock, deadline)
    sending = Try(call, durable_of(requests, settings), tries)
    while True:
        try:
            answer: tuple[T, bool] = yield sending
            return answer
        except StoreUnavailableError as error:
            pause = tries.pause_after(error, requests)
        yield pause


class Tries:
    """
    The tries of one enqueue call, and their common limit: `enqueue_timeout` from when the caller asked.

    The first try has half of it, so that there is time for a second one if a connection or a server dies during it.
    Jobs that may not be sent twice have one try.
    """

    __slots__ = ("_clock", "_deadline", "_first", "_pauses", "_ran", "_reply_s", "_told", "_tracked")

    def __init__(
        self,
        requests: Sequence[Request],
        settings: Settings,
        clock: Callable[[], float],
        deadline: float,
    ) -> None:
        self._clock, self._reply_s = clock, settings.reply_timeout
        self._deadline = deadline
        self._tracked = requests[0].tracked  # requests that share a call are all tracked or all untracked
        self._pauses: Iterator[float] | None = None
        self._first, self._ran = True, False
        self._told: StoreUnavailableError | None = None

    def seconds(self) -> float:
        """How long the next try may take."""
        left = self.left
        if self._first and self._tracked:
            left = max(left / 2, min(left, SHORT_TRY_S))
        self._first = False
        return min(left, self._reply_s)

    @property
    def left(self) -> float:
        """Seconds left of the whole limit."""
        return max(MIN_TRY_S, self._deadline - self._clock())

    def pause_after(self, error: StoreUnavailableError, requests: Sequence[Request]) -> float:
        """Seconds until the next try. Raises EnqueueUnavailableError for `requests` if there is none."""
        self._ran = self._ran or error.may_have_run
        self._pauses = self._pauses or client_pauses()
        pause = next(self._pauses)
        # An untracked job is forgotten when it is fetched; sent again after a lost reply it could run twice.
        once = error.may_have_run and not all(request.tracked for request in requests)
        over = isinstance(error, StoreFullError) or once
        # What a server or a handshake has said is worth more than the fact that the last, short try timed out.
        if self._told is None or not _timed_out(error):
            self._told = error
        if over or self._clock() + pause >= self._deadline:
            raise _enqueue_error(self._told, self._ran, requests) from self._told
        return pause


def _timed_out(error: StoreUnavailableError) -> bool:
    return "no reply in time" in error.problem or isinstance(error.__cause__, TimeoutError)


def durable_of(requests: Sequence[Request], settings: Settings) -> Durable | None:
    """What a batch of requests of one durability waits for beyond the server's memory."""
    if requests[0].durability == "memory":
        return None
    return Durable(requests[0].durability, settings.durability_replicas, settings.durability_timeout)


def not_durable(requests: Sequence[Request], settings: Settings) -> NotDurableError:
    """The error for jobs that are stored, but not as safely as was asked."""
    ids = tuple(request.id for request in requests)
    return NotDurableError(requests[0].durability, settings.durability_timeout, ids)


def _enqueue_error(error: StoreUnavailableError, ran: bool, requests: Sequence[Request]) -> EnqueueUnavailableError:
    kind = EnqueueFullError if isinstance(error, StoreFullError) else EnqueueUnavailableError
    return kind(error.problem, ran, tuple(request.id for request in requests))
