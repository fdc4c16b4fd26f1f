"""How long jobs waited and ran lately: histograms by queue and task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..protocol.times import RUN_EDGES, WAIT_EDGES, Field
from ..transport.store import Store
from .reading import now_ms, number_of, text_of


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket; `edges` are the upper ones in seconds, and one more bucket holds what is longer."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """
        Seconds within which this part of them stayed (0.95: 95 of 100), estimated evenly within a bucket; None without any.
        What is longer than the last edge counts as that.
        """
        wanted, seen, lower = part * self.total, 0, 0.0
        if not self.total:
            return None
        for count, upper in zip(self.counts, (*self.edges, self.edges[-1]), strict=True):
            if count and seen + count >= wanted:
                return lower + (upper - lower) * (wanted - seen) / count
            seen, lower = seen + count, upper
        return self.edges[-1]


@dataclass(frozen=True, slots=True)
class Times:
    """Runs by task, and waits by queue, from being due until the start."""

    runs: Mapping[str, Histogram] = field(default_factory=dict)
    waits: Mapping[str, Histogram] = field(default_factory=dict)


async def read_times(stores: Sequence[Store], minutes: int = 60) -> Times:
    """
    Of the last `minutes` (up to 120 by the minute, else by the hour, for at most 72 hours) over all shards.

    Source: lua/heartbeat.lua.
    """
    found: dict[str, Counter[Field]] = {"run": Counter(), "wait": Counter()}
    for store in stores:
        now = await now_ms(store)
        if minutes <= 120:
            names = [str(now // 60_000 - back) for back in range(minutes)]
        else:
            names = [f"h{now // 3_600_000 - back}" for back in range(min(72, -(-minutes // 60)))]
        for flat in await store.read(*(("HGETALL", store.keys.named("times", name)) for name in names)):
            for raw, count in zip(flat[::2], flat[1::2], strict=True):
                counter = Field.read(text_of(raw))
                if counter is not None:
                    found[counter.kind][counter] += number_of(count)
    return Times(_by_name(found["run"], RUN_EDGES), _by_name(found["wait"], WAIT_EDGES))


def _by_name(counters: Mapping[Field, int], edges: tuple[float, ...]) -> dict[str, Histogram]:
    names = sorted({counter.name for counter in counters})
    return {
        name: Histogram(edges, tuple(counters.get(Field(kind, bucket, name), 0) for bucket in range(len(edges) + 1)))
        for kind in {counter.kind for counter in counters}
        for name in names
    }
