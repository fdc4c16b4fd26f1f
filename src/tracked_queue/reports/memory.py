"""What the store remembers of the fleet: the last ends of a queue, recoveries, and what operators did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from ..transport.store import Store
from .reading import text_of, time_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """One of the last ends of a queue."""

    id: str
    state: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """
    Jobs that were moved from a lost instance in one portion.

    `cause` is how the loss was known: 'lost' (its lease ran out), 'died' or 'container' (its process was seen dead), 'outage'
    or 'interrupted'. `lost_at` is when it was last known to live, or when its lease ran out; None if it gave the lease up.
    """

    at: datetime | None
    lease: str
    label: str
    cause: str
    lost_at: datetime | None
    jobs: int
    dead: int
    shard: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a person, or a program for one, has done."""

    at: datetime | None
    by: str
    action: str
    facts: Mapping[str, Any]
    shard: int = 0


async def read_ends(store: Store, queues: Sequence[str], limit: int = 500) -> list[list[EndedJob]]:
    """The last ends of each of these queues, the newest first."""
    keys = [store.keys.named("ends", queue) for queue in queues]
    return [
        [_end(entry) for entry in entries]
        for entries in await store.read(*(("LRANGE", key, 0, limit - 1) for key in keys))
    ]


def _end(entry: bytes) -> EndedJob:
    ms, _, rest = entry.partition(b" ")
    state, _, job_id = rest.partition(b" ")
    return EndedJob(id=text_of(job_id), state=text_of(state), at=time_of(ms))


async def read_recoveries(store: Store, limit: int = 200) -> list[RecoveryReport]:
    """The last recoveries, the newest first; what something else wrote there is left out."""
    (entries,) = await store.read(("LRANGE", store.keys.single("recoveries"), 0, limit - 1))
    found = []
    for entry in entries:
        try:
            ms, lease, label, cause, deadline, died_ms, jobs, dead = _recovery.decode(entry)
        except msgspec.DecodeError:
            continue
        lost = died_ms or deadline
        found.append(
            RecoveryReport(
                at=_time(ms),
                lease=lease,
                label=label,
                cause=cause,
                lost_at=_time(lost) if lost else None,
                jobs=int(jobs),
                dead=int(dead),
            )
        )
    return found


async def read_acts(store: Store, limit: int = 500) -> list[Act]:
    """The last acts of operators, the newest first; what something else wrote there is left out."""
    (entries,) = await store.read(("LRANGE", store.keys.single("acts"), 0, limit - 1))
    found = []
    for entry in entries:
        try:
            ms, by, action, text = _act.decode(entry)
            facts = json.loads(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        found.append(Act(at=_time(ms), by=by, action=action, facts=facts if isinstance(facts, dict) else {}))
    return found


_recovery = msgspec.msgpack.Decoder(tuple[float, str, str, str, float, float, float, float])
_act = msgspec.msgpack.Decoder(tuple[float, str, str, str])


def _time(ms: float) -> datetime | None:
    return time_of(b"%d" % int(ms)) if abs(ms) < 2**53 else None
