"""Jobs as a list: by state, and if wanted of one queue or task; from as few places as hold jobs of that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from ..protocol.text import to_bytes
from ..transport.store import Store
from .instances import read_instances
from .memory import read_ends
from .reading import PAGE, lanes_of, now_ms, number_of, pages_of, scan, text_of, time_of

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
# How many ids a page may lie behind the first one of its shard.
MOST_SKIPPED = 1_000_000
_FIELDS = (
    "state", "task", "queue", "queued_ms", "due_ms", "delivery", "finished_ms", "attempts", "reason", "lease", "scheduled_for",
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

    def allows(self, row: JobRow) -> bool:
        """Whether a job is wanted."""
        return (
            self.queue in (None, row.queue)
            and self.task in (None, row.task)
            and (self.error is None or self.error.casefold() in row.reason.casefold())
            and (self.older_s is None or (row.age_s or 0.0) >= self.older_s)
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
    """Some jobs of a list; `next` is what the next page begins with, None if there is none."""

    rows: list[JobRow] = field(default_factory=list)
    next: str | None = None


async def list_jobs(
    store: Store, state: ListedState, which: JobFilter, *, limit: int, skip: int = 0
) -> tuple[list[tuple[JobRow, int]], int | None]:
    """
    Jobs of a state, the first to be taken or the newest end first, each with how many ids of the list lie before the next one;
    and from where the list goes on, None if it does not.

    At most MOST_READ records are read. A job that has ended is found only while it is among the last 500 of its queue.
    """
    now = await now_ms(store)
    rows, at, read = list[tuple[JobRow, int]](), 0, 0
    stored: str = "scheduled" if state == "retrying" else state
    async for ids in _ids_of(store, state, which.queue, which.task):
        if at + len(ids) <= skip:
            at += len(ids)
            continue
        begin, at = max(0, skip - at), max(at, skip)
        for first in range(begin, len(ids), PAGE):
            page = ids[first : first + PAGE]
            for job_id, fields in zip(page, await store.read_fields(page, *_FIELDS), strict=True):
                at += 1
                row = _row(job_id, fields, now)
                is_wanted = row.state == stored and (state != "retrying" or row.why == "retry")
                if is_wanted and which.allows(row):
                    rows.append((row, at))
                    if len(rows) == limit:
                        return rows, at
            read += len(page)
            if read >= MOST_READ:
                return rows, at
    return rows, None


def _row(job_id: bytes, fields: Sequence[bytes | None], now: int) -> JobRow:
    state, task, queue, queued, due, delivery, finished, attempts, reason, lease, why = fields
    name = text_of(state)
    since = {
        "active": abs(number_of(delivery)),
        "scheduled": number_of(due),
        "queued": max(number_of(queued), number_of(due)),
    }.get(name, number_of(finished) or number_of(queued))
    return JobRow(
        id=text_of(job_id),
        state=name,
        task=text_of(task),
        queue=text_of(queue),
        age_s=(now - since) / 1000 if since else None,
        attempts=number_of(attempts),
        lease=text_of(lease),
        reason=text_of(reason),
        at=time_of(b"%d" % since) if since else None,
        why=_WHY.get(why or b"", "delay") if name == "scheduled" else "",
    )


async def _ids_of(store: Store, state: ListedState, queue: str | None, task: str | None) -> AsyncIterator[list[bytes]]:
    keys = store.keys
    if state in ("scheduled", "retrying", "waiting", "dead"):
        key = keys.single(
            {"scheduled": "scheduled", "retrying": "scheduled", "waiting": "dependents", "dead": "dead"}[state]
        )
        async for page in _ranked(store, key, newest_first=state == "dead"):
            yield [job_id for job_id in page if job_id[:1] != b"\x02"]  # of an enqueue that is under way
        return
    if state == "active":
        for instance in await read_instances(store):
            async for page in scan(store, "SSCAN", keys.processing_of(instance.lease)):
                yield page
        return
    if state == "parked":
        names = (
            [task] if task is not None else [text_of(name) for name in (await store.read(("SMEMBERS", keys.parked)))[0]]
        )
        for name in names:
            async for page in pages_of(store, keys.named("parked", name)):
                yield page
        return
    (known,) = await store.read(("SMEMBERS", keys.single("queues")))
    queues = [queue] if queue is not None else sorted(map(text_of, known))
    if state == "queued":
        for name in queues:
            async for page in _from_the_head(store, keys.named("queue", name)):
                yield page
            async for page in _ranked(store, keys.named("suspected", name)):
                yield page
            for lane in await lanes_of(store, name):
                async for page in _from_the_head(store, keys.named("lane", text_of(lane))):
                    yield page
        return
    for at in range(0, len(queues), 50):
        ends = [one for ring in await read_ends(store, queues[at : at + 50]) for one in ring if one.state == state]
        yield [
            to_bytes(one.id)
            for one in sorted(ends, key=lambda one: one.at.timestamp() if one.at else 0.0, reverse=True)
        ]


async def read_head(store: Store, queue: str, n: int, skip: int = 0) -> list[bytes]:
    """Ids at the head of a queue's list, the first to be taken first."""
    (page,) = await store.read(("LRANGE", store.keys.named("queue", queue), -skip - n, -skip - 1))
    return list(page[::-1])


async def _ranked(store: Store, key: str, *, newest_first: bool = False) -> AsyncIterator[list[bytes]]:
    """A sorted set in its order, in pages."""
    at, verb = 0, "ZREVRANGE" if newest_first else "ZRANGE"
    while True:
        (page,) = await store.read((verb, key, at, at + PAGE - 1))
        if not page:
            return
        yield page
        at += len(page)


async def _from_the_head(store: Store, key: str) -> AsyncIterator[list[bytes]]:
    """A list from its right end, in pages; what is taken meanwhile moves the rest, and costs at most a row."""
    at = 0
    while True:
        (page,) = await store.read(("LRANGE", to_bytes(key), -at - PAGE, -at - 1))
        if not page:
            return
        yield page[::-1]
        at += PAGE
