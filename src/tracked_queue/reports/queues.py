"""Queues and the whole system on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..transport.store import Store
from .instances import InstanceReport, read_instances
from .reading import PAGE, now_ms, number_of, text_of

STATS_MINUTES = 5
# How many jobs of an instance, and of a queue's head, are looked at for interruptions.
LOOKED_AT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """One queue: how long (with `suspects`, and `limited` ones in lanes), how old, how fast, and who serves it."""

    queue: str
    length: int
    suspects: int
    limited: int
    oldest_s: float | None
    enqueued_per_min: float
    succeeded_per_min: float
    failed_per_min: float
    paused: bool
    instances: int

    @property
    def unserved(self) -> bool:
        """Jobs wait and no live instance serves them."""
        return self.length > 0 and self.instances == 0 and not self.paused


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedReport:
    """Jobs of one task that wait for an instance that knows it, or for the end of a pause."""

    task: str
    length: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole system on one page."""

    queues: tuple[QueueReport, ...]
    parked: tuple[ParkedReport, ...]
    paused_tasks: tuple[str, ...]
    scheduled: int
    dead: int
    interrupted: tuple[str, ...]


async def read_overview(stores: Sequence[Store]) -> Overview:
    """
    Queues with lengths, ages, rates, pauses; parked tasks; active jobs interrupted three times or more; over all shards.
    """
    pages = [await _read_overview(store) for store in stores]
    queues = [one for page in pages for one in page.queues]
    parked = [one for page in pages for one in page.parked]
    by_name: dict[str, list[QueueReport]] = {}
    for one in queues:
        by_name.setdefault(one.queue, []).append(one)
    return Overview(
        queues=tuple(_merged_queue(by_name[name]) for name in sorted(by_name)),
        parked=tuple(
            ParkedReport(
                task=task,
                length=sum(one.length for one in parked if one.task == task),
                paused=any(one.paused for one in parked if one.task == task),
            )
            for task in sorted({one.task for one in parked})
        ),
        paused_tasks=tuple(sorted({name for page in pages for name in page.paused_tasks})),
        scheduled=sum(page.scheduled for page in pages),
        dead=sum(page.dead for page in pages),
        interrupted=tuple(job_id for page in pages for job_id in page.interrupted),
    )


def _merged_queue(parts: Sequence[QueueReport]) -> QueueReport:
    """One queue over its shards, in each of which the same instances serve it."""
    return QueueReport(
        queue=parts[0].queue,
        length=sum(part.length for part in parts),
        suspects=sum(part.suspects for part in parts),
        limited=sum(part.limited for part in parts),
        oldest_s=max((part.oldest_s for part in parts if part.oldest_s is not None), default=None),
        enqueued_per_min=sum(part.enqueued_per_min for part in parts),
        succeeded_per_min=sum(part.succeeded_per_min for part in parts),
        failed_per_min=sum(part.failed_per_min for part in parts),
        paused=any(part.paused for part in parts),
        instances=min(part.instances for part in parts),
    )


async def _read_overview(store: Store) -> Overview:
    keys = store.keys
    now = await now_ms(store)
    minutes = [keys.named("stats", str(now // 60_000 - back)) for back in range(STATS_MINUTES)]
    names, paused_set, parked_names, scheduled, dead, *stats = await store.read(
        ("SMEMBERS", keys.single("queues")),
        ("SMEMBERS", keys.single("paused")),
        ("SRANDMEMBER", keys.single("parked"), PAGE),
        ("ZCARD", keys.single("scheduled")),
        ("ZCARD", keys.single("dead")),
        *(("HGETALL", key) for key in minutes),
    )
    paused = {text_of(what) for what in paused_set}
    instances = await read_instances(store)
    live = [instance for instance in instances if instance.alive and not instance.quiet]
    serving = Counter(queue for instance in live for queue in instance.queues)
    queues = sorted(
        {text_of(name) for name in names} | set(serving) | {w[6:] for w in paused if w.startswith("queue:")}
    )
    rates = _rates(stats, now)
    parked = sorted(map(text_of, parked_names))
    found = await _read_queues(store, queues)
    ages = await _read_ages(store, [head for one in found for head in one.heads], now)
    lengths = await store.read(*(("LLEN", keys.named("parked", name)) for name in parked))
    return Overview(
        queues=tuple(
            QueueReport(
                queue=queue,
                length=one.ready + one.suspects + one.limited,
                suspects=one.suspects,
                limited=one.limited,
                oldest_s=max((age for head in one.heads if (age := ages[head]) is not None), default=None),
                enqueued_per_min=rates.get(("enqueued", queue), 0.0),
                succeeded_per_min=rates.get(("succeeded", queue), 0.0),
                failed_per_min=sum(rates.get((what, queue), 0.0) for what in ("failed", "dead", "retry")),
                paused=f"queue:{queue}" in paused,
                instances=serving[queue],
            )
            for queue, one in zip(queues, found, strict=True)
        ),
        parked=tuple(
            ParkedReport(task=name, length=length, paused=f"task:{name}" in paused)
            for name, length in zip(parked, lengths, strict=True)
        ),
        paused_tasks=tuple(sorted(what[5:] for what in paused if what.startswith("task:"))),
        scheduled=scheduled,
        dead=dead,
        interrupted=tuple(await _often_interrupted(store, instances, queues)),
    )


class _Queue(NamedTuple):
    ready: int
    suspects: int
    limited: int
    heads: list[bytes]  # the oldest ready job, the first suspect


async def _read_queues(store: Store, queues: Sequence[str]) -> list[_Queue]:
    """Lengths and heads, some hundred queues at a time."""
    keys, found = store.keys, list[_Queue]()
    for at in range(0, len(queues), PAGE):
        page = queues[at : at + PAGE]
        lists, suspected = (
            [keys.named("queue", name) for name in page],
            [keys.named("suspected", name) for name in page],
        )
        replies = await store.read(
            *(("LLEN", key) for key in lists),
            *(("LINDEX", key, -1) for key in lists),
            *(("ZCARD", key) for key in suspected),
            *(("ZRANGE", key, 0, 0) for key in suspected),
            ("HMGET", keys.single("laned"), *page),
        )
        ready, heads, suspects, firsts = (replies[len(page) * part : len(page) * (part + 1)] for part in range(4))
        for one in zip(ready, heads, suspects, firsts, replies[-1], strict=True):
            found.append(
                _Queue(one[0], one[2], number_of(one[4]), [head for head in (one[1], *one[3]) if head is not None])
            )
    return found


async def _read_ages(store: Store, job_ids: Sequence[bytes], now: int) -> dict[bytes, float | None]:
    """Seconds that each has waited; None where its record does not say."""
    ages: dict[bytes, float | None] = {}
    for at in range(0, len(job_ids), PAGE):
        page = job_ids[at : at + PAGE]
        for job_id, times in zip(page, await store.read_fields(page, "queued_ms", "due_ms"), strict=True):
            since = max(map(number_of, times))
            ages[job_id] = max(0.0, (now - since) / 1000) if since else None
    return ages


def _rates(stats: Sequence[Sequence[bytes]], now: int) -> dict[tuple[str, str], float]:
    """Events per minute by (what, queue), over the last full minutes and the running one."""
    totals: dict[tuple[str, str], int] = {}
    for flat in stats:
        for name, count in zip(flat[::2], flat[1::2], strict=True):
            what, _, queue = text_of(name).partition(":")
            totals[what, queue] = totals.get((what, queue), 0) + number_of(count)
    minutes = STATS_MINUTES - 1 + (now % 60_000) / 60_000
    return {name: count / minutes for name, count in totals.items()}


async def _often_interrupted(store: Store, instances: Sequence[InstanceReport], queues: Sequence[str]) -> list[str]:
    """Ids of jobs with three interruptions or more, among some of the active ones and of the heads of the queues."""
    ids: list[bytes] = []
    heads = [("SRANDMEMBER", store.keys.named("processing", item.lease), LOOKED_AT) for item in instances[:50]]
    lists = [("LRANGE", store.keys.named("queue", queue), -LOOKED_AT, -1) for queue in queues[:50]]
    for found in await store.read(*heads, *lists):
        ids += found
    counts: list[bytes | None] = []
    for at in range(0, len(ids), PAGE):
        counts += [count for (count,) in await store.read_fields(ids[at : at + PAGE], "interruptions")]
    return [text_of(job_id) for job_id, count in zip(ids, counts, strict=True) if number_of(count) >= 3]


async def queue_age(store: Store, queue: str) -> float | None:
    """Seconds that the oldest job of a queue has waited; None for an empty queue."""
    now = await now_ms(store)
    (found,) = await _read_queues(store, [queue])
    ages = await _read_ages(store, found.heads, now)
    return max((age for age in ages.values() if age is not None), default=None)


async def queue_known(store: Store, queue: str) -> bool:
    """Whether a job was ever in a queue of this name."""
    (found,) = await store.read(("SISMEMBER", store.keys.single("queues"), queue))
    return bool(found)
