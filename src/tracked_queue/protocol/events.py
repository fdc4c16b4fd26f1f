"""A job's history, as scripts keep it on its record. Source: lua/include/history.lua."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

FIRST_EVENTS, LAST_EVENTS = 8, 24


class Event(NamedTuple):
    """
    One entry: when (ms), what, which delivery and lease it is about ('' for none), a detail, and when that delivery had started
    (ms; 0 if it is not known).
    """

    ms: int
    kind: str
    delivery: str
    lease: str
    detail: str
    started_ms: int


_decoder = msgspec.msgpack.Decoder(tuple[float, str, str, str, str, float])


def event_fields() -> list[str]:
    """The fields of a record that hold its history."""
    return ["events", *(f"event:{slot}" for slot in range(FIRST_EVENTS + LAST_EVENTS))]


def read_events(record: Mapping[bytes, bytes]) -> list[Event]:
    """The entries, the oldest first; what something else wrote there is left out."""
    found = []
    count = left_out(record) + FIRST_EVENTS + LAST_EVENTS
    oldest = (count - FIRST_EVENTS) % LAST_EVENTS  # of the ring that holds the last ones
    ring = [FIRST_EVENTS + (oldest + at) % LAST_EVENTS for at in range(LAST_EVENTS)]
    for slot in (*range(FIRST_EVENTS), *ring):
        packed = record.get(b"event:%d" % slot)
        if packed is None:
            continue
        try:
            ms, kind, delivery, lease, detail, started = _decoder.decode(packed)
            found.append(Event(int(ms), kind, delivery, lease, detail, int(started)))
        except (msgspec.DecodeError, ValueError, OverflowError):
            continue
    return found


def left_out(record: Mapping[bytes, bytes]) -> int:
    """How many entries between the first and the last ones are gone."""
    try:
        return max(0, int(record.get(b"events", b"0")) - FIRST_EVENTS - LAST_EVENTS)
    except ValueError:
        return 0
