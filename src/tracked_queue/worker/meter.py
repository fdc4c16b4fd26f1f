"""
The numbers of this process as plain counters, and their way to the supervisor, which adds those of all its processes up.

Jobs count in dictionaries of whoever runs them; once a second these are read here, and what has changed goes down a pipe of its
own, which never blocks: what finds no room is sent with the next second's. So there are no files, the numbers of a process
that died stay counted, and a job pays a few additions.

Source: docs/reference/metrics.md.
"""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .. import log
from ..protocol.times import OTHER

# A line of this size is written whole or not at all.
MOST_BYTES = 4000
MAX_CLASS_NAME = 100
MOST_ERRORS = 50

# Upper edges in seconds; one more bucket holds what is longer.
STORE_EDGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
LAG_EDGES = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)

# A family's name, then the values of its labels, for a histogram then the bucket's number.
Key = tuple[str, ...]
# What is happening now, as opposed to what has happened.
Gauges = Mapping[str, float]
# Counts of what is counted elsewhere, and gauges.
Source = Callable[[], tuple[Mapping[Key, float], Gauges]]

# Counters that are log events as well: each is counted where it is logged.
LOGGED = {
    "job.fenced": "fenced",
    "lease.lost": "leases_lost",
    "job.stray": "strays",
    "job.ignored_cancellation": "cancellations_ignored",
}


class Meter:
    """Counters that only grow, those of others that count for themselves, and gauges. It can be read in any thread."""

    def __init__(self) -> None:
        self.counts: defaultdict[Key, float] = defaultdict(float)
        self._sources: list[Source] = []
        self._lock = threading.Lock()  # so that what moves from a source to here is never seen twice, or not at all
        self._errors: dict[str, set[str]] = {}
        self.margin: float | None = None  # the smallest time that a lease had left at a beat since it was asked for

    def add(self, *key: str, by: float = 1) -> None:
        """Count."""
        self.counts[key] += by

    def observe(self, name: str, edges: Sequence[float], value: float, *labels: str) -> None:
        """Count in a histogram."""
        self.counts[name, *labels, str(bisect_left(edges, value))] += 1

    def failed(self, task: str, error: BaseException) -> None:
        """A run raised this."""
        known, name = self._errors.setdefault(task, set()), type(error).__qualname__[:MAX_CLASS_NAME]
        if name not in known and len(known) >= MOST_ERRORS:
            name = OTHER
        known.add(name)
        self.add("errors", task, name)

    def beaten(self, margin_s: float) -> None:
        """A beat was answered when the lease had this long left."""
        self.margin = margin_s if self.margin is None else min(self.margin, margin_s)

    def collect(self, source: Source) -> Callable[[], None]:
        """Ask `source` too when numbers are wanted, until the result is called: then what it has counted stays."""
        with self._lock:
            self._sources.append(source)

        def end() -> None:
            with self._lock:
                self._sources.remove(source)
                for key, count in source()[0].items():
                    self.counts[key] += count

        return end

    def read(self) -> tuple[Mapping[Key, float], Gauges]:
        """All counters and gauges."""
        gauges: defaultdict[str, float] = defaultdict(float)
        with self._lock:
            found: defaultdict[Key, float] = defaultdict(float, self.counts)
            for source in self._sources:
                counts, own = source()
                for key, count in counts.items():
                    found[key] += count
                for name, value in own.items():
                    gauges[name] += value
        if self.margin is not None:
            gauges["lease_margin_seconds"], self.margin = self.margin, None
        found.update({(family,): float(log.log.counts[event]) for event, family in LOGGED.items()})
        return found, gauges


# The process's own. Where several workers run in one process, they count together.
METER = Meter()


class Teller:
    """The child's end of the pipe for numbers."""

    def __init__(self, end: int) -> None:
        os.set_blocking(end, False)
        self._end = end
        self._told: dict[Key, float] = {}

    def tell(self, meter: Meter) -> None:
        """Send what has changed since the last time, as far as there is room."""
        counts, gauges = meter.read()
        changes = [
            (key, value - before) for key, value in counts.items() if value != (before := self._told.get(key, 0.0))
        ]
        try:
            os.write(self._end, _line("gauges", json.dumps(dict(gauges))))
            for portion in _portions(changes):
                os.write(self._end, _line("counts", f"[{','.join(text for text, _, _ in portion)}]"))
                for _, key, change in portion:
                    self._told[key] = self._told.get(key, 0.0) + change
        except OSError:  # it is full, since the supervisor does not read, or the supervisor is gone
            return


def _line(what: str, value: str) -> bytes:
    return f'{{"{what}": {value}}}\n'.encode("utf-8", "replace")


def _portions(changes: Iterable[tuple[Key, float]]) -> Iterator[list[tuple[str, Key, float]]]:
    """Changes and their JSON, as many as a line takes."""
    portion, size = list[tuple[str, Key, float]](), 0
    for key, change in changes:
        text = json.dumps([key, change], ensure_ascii=False)
        length = len(text.encode("utf-8", "replace")) + 1
        if portion and size + length > MOST_BYTES:
            yield portion
            portion, size = [], 0
        portion.append((text, key, change))
        size += length
    if portion:
        yield portion


class Tally:
    """
    The numbers of all processes of a supervisor: counters over all that ever were, gauges of those that live.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[Key, float] = defaultdict(float)
        self._gauges: dict[int, dict[str, float]] = {}
        self._margin: float | None = None

    def add(self, *key: str) -> None:
        """Count something that the supervisor saw itself."""
        self.counts[key] += 1

    def hear(self, pid: int, line: bytes) -> None:
        """Take what a process has told; a line that is none is left out."""
        try:
            news = json.loads(line)
            for key, change in news.get("counts", ()):
                self.counts[tuple(map(str, key))] += float(change)
            gauges = news.get("gauges")
            if isinstance(gauges, dict):
                self._gauges[pid] = {str(name): float(value) for name, value in gauges.items()}
                margin = self._gauges[pid].pop("lease_margin_seconds", None)
                if margin is not None:
                    self._margin = margin if self._margin is None else min(self._margin, margin)
        except (ValueError, TypeError, AttributeError):
            return

    def forget(self, pid: int) -> None:
        """A process has ended: its gauges are over, its counters stay."""
        self._gauges.pop(pid, None)

    def read(self) -> tuple[Mapping[Key, float], Gauges]:
        """All counters and gauges; the lease margin is that since the last reading."""
        gauges: defaultdict[str, float] = defaultdict(float)
        for of in list(self._gauges.values()):
            for name, value in of.items():
                gauges[name] += value
        if self._margin is not None:
            gauges["lease_margin_seconds"], self._margin = self._margin, None
        return dict(self.counts), dict(gauges)
