"""What happened in each of the last minutes, by queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..protocol.times import RUN_EDGES, WAIT_EDGES, Field
from ..transport.store import Store
from .reading import number_of, text_of
from .times import Histogram

# How many minutes are read at once: one hash each of a few fields for each queue.
AT_ONCE = 10
_FAILED = ("failed", "dead", "retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """
    One minute, counted since 1970, over all shards. `failed` are runs that failed, whether they were retried or not. `waits`
    and `runs` are of the whole fleet.
    """

    at: int
    enqueued: Mapping[str, int] = field(default_factory=dict)
    succeeded: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    waits: Histogram
    runs: Histogram


async def read_minutes(stores: Sequence[Store], since: int, until: int) -> list[Minute]:
    """Each minute from one to another, both included."""
    found: list[Minute] = []
    for first in range(since, until + 1, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, until + 1))
        events = {number: (Counter[str](), Counter[str](), Counter[str]()) for number in numbers}
        spans = {number: (Counter[int](), Counter[int]()) for number in numbers}
        for store in stores:
            keys = [store.keys.named(kind, str(number)) for kind in ("stats", "times") for number in numbers]
            replies = await store.read(*(("HGETALL", key) for key in keys))
            for number, stats, times in zip(numbers, replies[: len(numbers)], replies[len(numbers) :], strict=True):
                _add_events(events[number], stats)
                _add_times(spans[number], times)
        for number in numbers:
            enqueued, succeeded, failed = events[number]
            waits, runs = spans[number]
            found.append(
                Minute(
                    at=number,
                    enqueued=dict(enqueued),
                    succeeded=dict(succeeded),
                    failed=dict(failed),
                    waits=Histogram(WAIT_EDGES, tuple(waits[bucket] for bucket in range(len(WAIT_EDGES) + 1))),
                    runs=Histogram(RUN_EDGES, tuple(runs[bucket] for bucket in range(len(RUN_EDGES) + 1))),
                )
            )
    return found


def _add_events(counts: tuple[Counter[str], Counter[str], Counter[str]], flat: Sequence[bytes]) -> None:
    enqueued, succeeded, failed = counts
    for raw, number in zip(flat[::2], flat[1::2], strict=True):
        what, _, queue = text_of(raw).partition(":")
        if what == "enqueued":
            enqueued[queue] += number_of(number)
        elif what == "succeeded":
            succeeded[queue] += number_of(number)
        elif what in _FAILED:
            failed[queue] += number_of(number)


def _add_times(counts: tuple[Counter[int], Counter[int]], flat: Sequence[bytes]) -> None:
    waits, runs = counts
    for raw, number in zip(flat[::2], flat[1::2], strict=True):
        counter = Field.read(text_of(raw))
        if counter is not None:
            (waits if counter.kind == "wait" else runs)[counter.bucket] += number_of(number)
