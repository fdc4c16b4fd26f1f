"""Queues and the whole system on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..transport.store import Store
from .instances import InstanceReport, read_instances
from .reading import PAGE, now_ms, number_of, text_of, waiting_s

STATS_MINUTES = 5


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
    return Overview(
        queues=tuple(
            _merged_queue([one for one in queues if one.queue == name])
            for name in sorted({one.queue for one in queues})
        ),
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
    names, paused_set, parked_names, scheduled, dead = await store.read(
        ("SMEMBERS", keys.single("queues")),
        ("SMEMBERS", keys.single("paused")),
        ("SRANDMEMBER", keys.single("parked"), PAGE),
        ("ZCARD", keys.single("scheduled")),
        ("ZCARD", keys.single("dead")),
    )
    paused = {text_of(what) for what in paused_set}
    instances = await read_instances(store)
    live = [instance for instance in instances if instance.alive and not instance.quiet]
    served = {queue for instance in live for queue in instance.queues}
    queues = sorted({text_of(name) for name in names} | served | {w[6:] for w in paused if w.startswith("queue:")})
    rates = await _rates(store, now)
    reports = []
    for queue in queues:
        list_key, suspect_key = keys.named("queue", queue), keys.named("suspected", queue)
        length, suspects, oldest, first_suspect, laned = await store.read(
            ("LLEN", list_key),
            ("ZCARD", suspect_key),
            ("LINDEX", list_key, -1),
            ("ZRANGE", suspect_key, 0, 0),
            ("HGET", keys.single("laned"), queue),
        )
        ages = [await waiting_s(store, job_id, now) for job_id in (oldest, *first_suspect) if job_id is not None]
        reports.append(
            QueueReport(
                queue=queue,
                length=length + suspects + number_of(laned),
                suspects=suspects,
                limited=number_of(laned),
                oldest_s=max((age for age in ages if age is not None), default=None),
                enqueued_per_min=rates.get(("enqueued", queue), 0.0),
                succeeded_per_min=rates.get(("succeeded", queue), 0.0),
                failed_per_min=sum(rates.get((what, queue), 0.0) for what in ("failed", "dead", "retry")),
                paused=f"queue:{queue}" in paused,
                instances=sum(queue in instance.queues for instance in live),
            )
        )
    parked = [
        ParkedReport(
            task=text_of(name),
            length=(await store.read(("LLEN", keys.named("parked", text_of(name)))))[0],
            paused=f"task:{text_of(name)}" in paused,
        )
        for name in sorted(parked_names)
    ]
    return Overview(
        queues=tuple(reports),
        parked=tuple(parked),
        paused_tasks=tuple(sorted(what[5:] for what in paused if what.startswith("task:"))),
        scheduled=scheduled,
        dead=dead,
        interrupted=tuple(await _often_interrupted(store, instances, queues)),
    )


async def _rates(store: Store, now: int) -> dict[tuple[str, str], float]:
    """Events per minute by (what, queue), over the last full minutes and the running one."""
    minute = now // 60_000
    stats = [store.keys.named("stats", str(minute - back)) for back in range(STATS_MINUTES)]
    totals: dict[tuple[str, str], int] = {}
    for flat in await store.read(*(("HGETALL", key) for key in stats)):
        for name, count in zip(flat[::2], flat[1::2], strict=True):
            what, _, queue = text_of(name).partition(":")
            totals[what, queue] = totals.get((what, queue), 0) + number_of(count)
    minutes = STATS_MINUTES - 1 + (now % 60_000) / 60_000
    return {name: count / minutes for name, count in totals.items()}


async def _often_interrupted(store: Store, instances: Sequence[InstanceReport], queues: Sequence[str]) -> list[str]:
    """Ids of jobs with three interruptions or more, among the active ones and the heads of the queues."""
    ids: list[bytes] = []
    heads = [("SRANDMEMBER", store.keys.named("processing", item.lease), PAGE) for item in instances[:50]]
    lists = [("LRANGE", store.keys.named("queue", queue), -PAGE, -1) for queue in queues[:50]]
    for found in await store.read(*heads, *lists):
        ids += found
    counts: list[bytes | None] = []
    for at in range(0, len(ids), PAGE):
        counts += [count for (count,) in await store.read_fields(ids[at : at + PAGE], "interruptions")]
    return [text_of(job_id) for job_id, count in zip(ids, counts, strict=True) if number_of(count) >= 3]


async def queue_age(store: Store, queue: str) -> float | None:
    """Seconds that the oldest job of a queue has waited; None for an empty queue."""
    now = await now_ms(store)
    head, suspects = await store.read(
        ("LINDEX", store.keys.named("queue", queue), -1), ("ZRANGE", store.keys.named("suspected", queue), 0, 0)
    )
    ages = [await waiting_s(store, job_id, now) for job_id in (head, *suspects) if job_id is not None]
    return max((age for age in ages if age is not None), default=None)


async def queue_known(store: Store, queue: str) -> bool:
    """Whether a job was ever in a queue of this name."""
    (found,) = await store.read(("SISMEMBER", store.keys.single("queues"), queue))
    return bool(found)
