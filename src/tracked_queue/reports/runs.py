"""The runs of a job, one for each delivery that reached its function, as its record and its history tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..protocol.events import Event
from .reading import number_of, text_of

# How a delivery ends that never reached the function.
_DID_NOT_RUN = ("unstarted", "parked", "bound")
_ABOUT_A_DELIVERY = ("retry", "snoozed", "interrupted", "failed", "dead", "cancelled", "recovered", *_DID_NOT_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One run.

    `started_at` is when the function began, or else when the job was handed over. `end` is the outcome ('succeeded', 'retry',
    'recovered', ...), or '' while it runs; `ended_at` is when that was recorded. `late_at` is when the function of a delivery
    ended that had lost its job, with `late_outcome`. `overlap_s` is for how long it then ran beside the next run.
    """

    delivery: int
    lease: str
    started_at: datetime
    ended_at: datetime | None
    end: str
    detail: str
    late_at: datetime | None = None
    late_outcome: str = ""
    overlap_s: float = 0.0


def runs_of(events: Sequence[Event], record: Mapping[bytes, bytes]) -> list[Run]:
    """The runs that are known, the oldest first; those whose entries are gone from the history are missing."""
    ends = {event.delivery: event for event in events if event.kind in _ABOUT_A_DELIVERY and event.delivery}
    late = {event.delivery: event for event in events if event.kind == "late"}
    found: list[tuple[int, str, int, int, str, str]] = [
        (number_of(delivery.encode()), event.lease, event.started_ms, event.ms, event.kind, event.detail)
        for delivery, event in ends.items()
        if event.kind not in _DID_NOT_RUN and not (event.kind == "recovered" and " unstarted " in event.detail)
    ]
    stored = number_of(record.get(b"delivery"))
    number, state = abs(stored), text_of(record.get(b"state"))
    waits = state == "active" and record.get(b"buffered") == b"1" and b"started" not in record
    if number and str(number) not in ends and not waits and (stored < 0 or state == "active"):
        ended = number_of(record.get(b"finished_ms")) if stored < 0 else 0
        found.append((number, text_of(record.get(b"lease")), _noted_start(record), ended, state if ended else "", ""))
    found.sort()
    runs = []
    for at, (delivery, lease, started, ended, end, detail) in enumerate(found):
        mark = late.get(str(delivery))
        following = found[at + 1] if at + 1 < len(found) else None
        begins = (following[2] or following[0]) if following else 0
        stops = (following[3] or mark.ms) if following and mark else 0
        overlap = max(0, min(mark.ms, stops) - begins) if mark and following else 0
        runs.append(
            Run(
                delivery=delivery,
                lease=lease,
                started_at=_moment(started or delivery),
                ended_at=_moment(ended) if ended else None,
                end=end,
                detail=detail,
                late_at=_moment(mark.ms) if mark else None,
                late_outcome=mark.detail if mark else "",
                overlap_s=overlap / 1000,
            )
        )
    return runs


def _noted_start(record: Mapping[bytes, bytes]) -> int:
    """When the delivery on the record started, if a beat has noted it ('<delivery> <ms>')."""
    delivery, _, ms = record.get(b"started", b"").partition(b" ")
    return number_of(ms) if delivery and abs(number_of(record.get(b"delivery"))) == number_of(delivery) else 0


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(min(max(ms, 0), 253402300799000) / 1000, UTC)
