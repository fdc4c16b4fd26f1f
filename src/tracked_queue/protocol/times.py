"""Histograms of how long jobs wait and run: their buckets, and the fields that hold them. Source: lua/heartbeat.lua."""

from __future__ import annotations

from typing import NamedTuple

# Upper edges in seconds; one more bucket holds what is longer.
RUN_EDGES = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
WAIT_EDGES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 21600.0)
# What goes beyond these numbers of names counts for OTHER.
MOST_TASKS, MOST_QUEUES, OTHER = 200, 500, "_other"
# Kept by the minute for two hours, by the hour for three days.
HOURS_KEPT = 72


class Field(NamedTuple):
    """One counter: 'run' of a task or 'wait' in a queue, which bucket, and the name."""

    kind: str
    bucket: int
    name: str

    def packed(self) -> str:
        """As a field of a hash."""
        return f"{self.kind} {self.bucket} {self.name}"

    @classmethod
    def read(cls, field: str) -> Field | None:
        """None for what something else wrote."""
        kind, _, rest = field.partition(" ")
        bucket, _, name = rest.partition(" ")
        edges = {"run": RUN_EDGES, "wait": WAIT_EDGES}.get(kind)
        if edges is None or not (bucket.isascii() and bucket.isdigit()) or len(bucket) > 3 or int(bucket) > len(edges):
            return None
        return cls(kind, int(bucket), name)
