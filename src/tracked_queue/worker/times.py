"""
How long jobs waited and ran, counted in memory and carried to Redis by beats, so that no job pays a command for it.

What a beat carries stays until it is answered, and is sent again under the same number, which the script counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ..protocol.text import to_text
from ..protocol.times import MOST_QUEUES, MOST_TASKS, OTHER, RUN_EDGES, WAIT_EDGES, Field

# Counters that one beat carries at most; the others go with the next.
MOST_FIELDS = 100
# In whole ms, as waits are: a number is compared faster with one of its kind.
WAIT_EDGES_MS = tuple(round(edge * 1000) for edge in WAIT_EDGES)


class Times:
    """The counters of one lease; `taken` is told of what goes with a beat."""

    def __init__(self, taken: Callable[[Field, int], None] = lambda field, count: None) -> None:
        self._taken = taken
        self._runs: dict[str, list[int]] = {}
        self._waits: dict[bytes, list[int]] = {}
        self._sent: list[tuple[str, int]] = []
        self.number = 0

    def runs_of(self, task: str) -> list[int]:
        """A task's counters, one for each bucket of RUN_EDGES; its runs are counted there, which saves each of them a call."""
        name = task if len(self._runs) < MOST_TASKS else OTHER
        return self._runs.setdefault(name, [0] * (len(RUN_EDGES) + 1))

    def waits_of(self, queue: bytes) -> list[int]:
        """A queue's counters, one for each bucket of WAIT_EDGES_MS; its jobs' waits until their starts are counted there."""
        counts = self._waits.get(queue)
        if counts is None:
            name = queue if len(self._waits) < MOST_QUEUES else OTHER.encode()
            counts = self._waits.setdefault(name, [0] * (len(WAIT_EDGES) + 1))
        return counts

    def portion(self) -> list[tuple[str, int]]:
        """What the next beat carries: what was not answered, or else some of what has been counted since."""
        if not self._sent:
            self._sent = list(islice(self._take(), MOST_FIELDS))
            self.number += bool(self._sent)
        return self._sent

    def answered(self) -> None:
        """The beat that carried it has been answered."""
        self._sent = []

    def _take(self) -> Iterator[tuple[str, int]]:
        """Counters above 0, each set back to 0 as it is taken."""
        waits = ((to_text(queue), counts) for queue, counts in self._waits.items())
        for kind, known in (("run", self._runs.items()), ("wait", waits)):
            for name, counts in known:
                for bucket, count in enumerate(counts):
                    if count:
                        counts[bucket] = 0
                        field = Field(kind, bucket, name)
                        self._taken(field, count)
                        yield field.packed(), count
