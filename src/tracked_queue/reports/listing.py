"""Jobs as a list: by state, and if wanted of one queue or task; from as few places as hold jobs of that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, get_args

from ..model.codec import decode_error
from ..protocol.text import to_bytes
from ..transport.store import Store
from .instances import read_instances
from .memory import read_ends
from .reading import PAGE, lanes_of, now_ms, number_of, text_of, time_of

ListedState = Literal[
    "queued",
    "scheduled",
    "retrying",
    "waiting",
    "parked",
    "active",
    "dead",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
]
LISTED_STATES: tuple[ListedState, ...] = get_args(ListedState)
# Those that are listed with the newest first.
ENDED_STATES = ("dead", "succeeded", "failed", "cancelled", "expired")
# How many records are read to find those that match.
MOST_READ = 10_000
# Of so many queues all ends that are kept are listed, of more the last FEW_ENDS of each.
ALL_OF, LAST_ENDS, FEW_ENDS = 50, 500, 50
_FIELDS = (
    "state", "task", "queue", "queued_ms", "due_ms", "delivery", "finished_ms", "attempts", "reason", "lease", "scheduled_for",
    "set_ms", "error",
)  # fmt: skip
# Why a job is scheduled, by the outcome that scheduled it.
_WHY = {b"retry": "retry", b"snoozed": "snooze"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """
    Which jobs of a state: all given conditions must hold.

    `error` matches a part of the reason, whatever the case; `older_s` how long a job has been as it is at least.
    """

    queue: str | None = None
    task: str | None = None
    error: str | None = None
    older_s: float | None = None

    def allows(self, row: JobRow, age_s: float) -> bool:
        """Whether a job is wanted that has been as it is for `age_s`."""
        return (
            self.queue in (None, row.queue)
            and self.task in (None, row.task)
            and (self.error is None or self.error.casefold() in row.reason.casefold())
            and (self.older_s is None or age_s >= self.older_s)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """
    One job of a list. `age_s` is how long it has been as it is: queued since it could be taken, active since it was handed
    over, ended since its end; of a scheduled one it is negative, the time until it is due. `why` says what a scheduled one
    waits for: its `delay`, a `retry` or a `snooze`.
    """

    id: str
    state: str
    task: str
    queue: str
    age_s: float | None
    attempts: int
    lease: str
    reason: str
    at: datetime | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """
    Some jobs of a list; `next` is what the next page begins with, None if there is none. `looked_at` is how many records were
    read to find them.
    """

    rows: list[JobRow] = field(default_factory=list)
    next: str | None = None
    looked_at: int = 0


class Found(NamedTuple):
    """Rows, each with the place after it; from where the list goes on, None if it does not; and how many were looked at."""

    rows: list[tuple[JobRow, Place]]
    end: Place | None
    looked_at: int


class Place(NamedTuple):
    """
    Where a list goes on: in which source (a queue's list, its suspects, a lane, an instance, ...), after which id, and how many
    ids of that source lay before. The id is looked for again, so that what is taken meanwhile makes nobody miss a job.
    """

    source: tuple[str, ...] = ()
    offset: int = 0
    last: bytes = b""


async def list_jobs(
    store: Store,
    state: ListedState,
    which: JobFilter,
    *,
    limit: int,
    after: Place | None = None,
    most_read: int = MOST_READ,
) -> Found:
    """
    Jobs of a state, the first to be taken or the newest end first.

    At most `most_read` records are read. A job that has ended is found only while it is among the last 500 of its queue.
    """
    now = await now_ms(store)
    rows, read, looked, place = list[tuple[JobRow, Place]](), 0, 0, after or Place()
    stored: str = "scheduled" if state == "retrying" else state
    async for source in _sources(store, state, which.queue, which.task, place.source):
        if source.name < place.source:
            continue
        offset = await source.place_of(store, place) if source.name == place.source else 0
        while ids := await source.read(store, offset):
            for job_id, fields in zip(ids, await store.read_fields(ids, *_FIELDS), strict=True):
                offset, looked = offset + 1, looked + 1
                if job_id[:1] == b"\x02":  # of an enqueue that is under way
                    continue
                row, age_s = _row(job_id, fields, now)
                is_wanted = row.state == stored and (state != "retrying" or row.why == "retry")
                if is_wanted and which.allows(row, age_s):
                    rows.append((row, Place(source.name, offset, job_id)))
                    if len(rows) == limit:
                        return Found(rows, rows[-1][1], looked)
            read += len(ids)
            if read >= most_read:
                return Found(rows, Place(source.name, offset, ids[-1]), looked)
    return Found(rows, None, looked)


def _row(job_id: bytes, fields: Sequence[bytes | None], now: int) -> tuple[JobRow, float]:
    """A job, and for how long it has been as it is."""
    state, task, queue, queued, due, delivery, finished, attempts, reason, lease, why, set_ms, packed = fields
    name = text_of(state)
    since = {
        "active": abs(number_of(delivery)),
        "scheduled": number_of(due),
        "queued": max(number_of(queued), number_of(due)),
    }.get(name, number_of(finished) or number_of(queued))
    begun = max(number_of(set_ms), number_of(queued)) if name == "scheduled" else since
    text = text_of(reason)
    if not text and packed and name == "scheduled":
        error = decode_error(packed)  # what it failed with before; None for a sealed one
        text = f"{error.type}: {error.message}" if error is not None and error.type else ""
    row = JobRow(
        id=text_of(job_id),
        state=name,
        task=text_of(task),
        queue=text_of(queue),
        age_s=(now - since) / 1000 if since else None,
        attempts=number_of(attempts),
        lease=text_of(lease),
        reason=text,
        at=time_of(b"%d" % since) if since else None,
        why=_WHY.get(why or b"", "delay") if name == "scheduled" else "",
    )
    return row, (now - begun) / 1000 if begun else 0.0


@dataclass(frozen=True, slots=True)
class _Source:
    """A key that holds ids: a list that is read from its right end, a sorted set, a set; or ids that are at hand."""

    name: tuple[str, ...]
    key: bytes = b""
    kind: Literal["list", "parked", "ranked", "newest", "set", "ids"] = "list"
    ids: tuple[bytes, ...] = ()

    async def read(self, store: Store, offset: int) -> list[bytes]:
        """The next ids of it."""
        last = offset + PAGE - 1
        match self.kind:
            case "list":
                (page,) = await store.read(("LRANGE", self.key, -last - 1, -offset - 1))
                return list(page[::-1])
            case "parked":
                (page,) = await store.read(("LRANGE", self.key, offset, last))
            case "ranked":
                (page,) = await store.read(("ZRANGE", self.key, offset, last))
            case "newest":
                (page,) = await store.read(("ZREVRANGE", self.key, offset, last))
            case "set":
                (members,) = await store.read(("SMEMBERS", self.key))  # of an instance, which owns a few hundred
                page = sorted(members)[offset : last + 1]
            case _:
                page = self.ids[offset : last + 1]
        return list(page)

    async def place_of(self, store: Store, place: Place) -> int:
        """How many ids lie before the next one now. Where the last one has left the head of a line, so have those before it."""
        if not place.last:
            return place.offset
        match self.kind:
            case "list":
                length, at = await store.read(
                    ("LLEN", self.key), ("LPOS", self.key, place.last, "RANK", -1, "MAXLEN", place.offset + 1)
                )
                return 0 if at is None else int(length) - int(at)
            case "parked":
                (at,) = await store.read(("LPOS", self.key, place.last, "MAXLEN", place.offset + 1))
                return 0 if at is None else int(at) + 1
            case "ranked" | "newest":
                count, at = await store.read(("ZCARD", self.key), ("ZRANK", self.key, place.last))
                if at is None:
                    return 0 if self.kind == "ranked" else place.offset
                return int(at) + 1 if self.kind == "ranked" else int(count) - int(at)
            case _:
                return place.offset


async def _sources(
    store: Store, state: ListedState, queue: str | None, task: str | None, first: tuple[str, ...]
) -> AsyncIterator[_Source]:
    """What holds the jobs of a state, in the order of their names; what comes before the queue of `first` may be left out."""
    keys = store.keys
    if state in ("scheduled", "retrying", "waiting", "dead"):
        kind = {"scheduled": "scheduled", "retrying": "scheduled", "waiting": "dependents", "dead": "dead"}[state]
        yield _Source((kind,), to_bytes(keys.single(kind)), "newest" if state == "dead" else "ranked")
        return
    if state == "active":
        for lease in sorted(instance.lease for instance in await read_instances(store)):
            yield _Source((lease,), to_bytes(keys.processing_of(lease)), "set")
        return
    if state == "parked":
        names = [task] if task is not None else map(text_of, (await store.read(("SMEMBERS", keys.parked)))[0])
        for name in sorted(names):
            yield _Source((name,), to_bytes(keys.named("parked", name)), "parked")
        return
    (known,) = await store.read(("SMEMBERS", keys.single("queues")))
    queues = [queue] if queue is not None else sorted(map(text_of, known))
    if state != "queued":
        most = LAST_ENDS if len(queues) <= ALL_OF else FEW_ENDS
        ends = [one for ring in await read_ends(store, queues, most) for one in ring if one.state == state]
        ends.sort(key=lambda one: one.at.timestamp() if one.at else 0.0, reverse=True)
        yield _Source(("ends",), kind="ids", ids=tuple(to_bytes(one.id) for one in ends))
        return
    for name in queues:
        if (name,) < first[:1]:
            continue
        yield _Source((name, "1"), to_bytes(keys.named("queue", name)), "list")
        yield _Source((name, "2"), to_bytes(keys.named("suspected", name)), "ranked")
        for lane in sorted(map(text_of, await lanes_of(store, name))):
            yield _Source((name, "3", lane), to_bytes(keys.named("lane", lane)), "list")


async def read_head(store: Store, queue: str, n: int, skip: int = 0) -> list[bytes]:
    """Ids at the head of a queue's list, the first to be taken first."""
    (page,) = await store.read(("LRANGE", store.keys.named("queue", queue), -skip - n, -skip - 1))
    return list(page[::-1])
