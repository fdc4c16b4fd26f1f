"""The fleet as numbers, for metrics and autoscalers. A bounded number of reads, few of them one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..model.constraints import limit_shown
from ..transport.store import Store
from .instances import InstanceReport, read_instances
from .memory import Act, read_acts
from .queues import Overview, read_overview
from .reading import PAGE, now_ms, number_of, text_of
from .schedules import ScheduleReport, read_schedules

# Due jobs whose queue is looked up, for an autoscaler.
DUE_READ = 1000
# Minutes of counters that are still added to: a reader that looks at least once in this time misses none.
MINUTES_READ = 5
# Acts of operators that are read to count them, and queues of a limit whose waiting lanes are counted.
ACTS_READ, WAITING_QUEUES = 100, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitNumbers:
    """A concurrency limit without a key: its places, those taken, and how many lanes wait for one."""

    capacity: int
    in_use: int
    lanes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNumbers:
    """
    Everything at one time, over all shards. `events` are the counters of the last minutes by (minute, event, queue), which grow
    until the minute is over; `times` those of waits and runs by (minute, field).
    """

    overview: Overview
    instances: Sequence[InstanceReport]
    schedules: Sequence[ScheduleReport]
    waiting: int
    overdue_s: float
    unrecovered_s: float
    hold_s: float
    limits: Mapping[str, LimitNumbers]
    events: Mapping[tuple[int, int, str, str], int]
    times: Mapping[tuple[int, int, str], int]
    memory_used: Sequence[int] = ()
    memory_max: Sequence[int] = ()
    replica_lag_s: Sequence[float] = ()  # of the replica that is furthest behind; 0 without any
    acts: Sequence[Act] = ()  # the newest first
    lanes: Mapping[str, int] = field(default_factory=dict)  # that may be taken from now, by queue


async def read_numbers(stores: Sequence[Store]) -> FleetNumbers:
    """All of it."""
    overview = await read_overview(stores)
    instances, schedules = list[InstanceReport](), list[ScheduleReport]()
    waiting, overdue, unrecovered, hold = 0, 0.0, 0.0, 0.0
    places, taken, lanes, behind = dict[str, int](), Counter[str](), Counter[str](), Counter[str]()
    lags = list[float]()
    events, times = dict[tuple[int, int, str, str], int](), dict[tuple[int, int, str], int]()
    used, most = list[int](), list[int]()
    for shard, store in enumerate(stores):
        keys, now = store.keys, await now_ms(store)
        own = await read_instances(store)
        instances += own
        schedules += await read_schedules(store)
        minutes = [now // 60_000 - back for back in range(MINUTES_READ)]
        queues = [one.queue for one in overview.queues]
        found = await store.read(
            ("ZCARD", keys.single("dependents")),
            ("ZRANGE", keys.single("scheduled"), 0, 0, "WITHSCORES"),
            ("GET", keys.single("hold")),
            ("HGETALL", keys.single("limits")),
            ("INFO",),
            *(("HGETALL", keys.named("stats", str(minute))) for minute in minutes),
            *(("HGETALL", keys.named("times", str(minute))) for minute in minutes),
            *(("ZCARD", keys.named("lanes", queue)) for queue in queues),
        )
        waiting += found[0]
        due = number_of(found[1][1]) if found[1] else 0
        overdue = max(overdue, (now - due) / 1000 if due else 0.0)
        hold = max(hold, (number_of(found[2]) - now) / 1000)
        unrecovered = max([unrecovered, *(-item.deadline_s for item in own if not item.alive and item.owned)])
        named = {text_of(base): number_of(number) for base, number in _pairs(found[3])}
        single = {base: shown for base in named if (shown := limit_shown(base))}
        permits = await store.read(*(("SCARD", keys.named("permits", base)) for base in single))
        queues_of = await store.read(*(("ZRANGE", keys.named("waits", base), 0, WAITING_QUEUES - 1) for base in single))
        groups = [(base, text_of(queue)) for base, waits in zip(single, queues_of, strict=True) for queue in waits]
        sizes = await store.read(*(("ZCARD", keys.named("waiting", f"{base}\n{queue}")) for base, queue in groups))
        for (base, shown), held in zip(single.items(), permits, strict=True):
            places[shown] = named[base]
            taken[shown] += held
        for (base, _), size in zip(groups, sizes, strict=True):
            behind[single[base]] += size
        memory = dict(line.split(":", 1) for line in text_of(found[4]).splitlines() if ":" in line)
        used.append(number_of(memory.get("used_memory", "0").encode()))
        most.append(number_of(memory.get("maxmemory", "0").encode()))
        lags.append(_lag(memory))
        for minute, stats, spans in zip(minutes, found[5 : 5 + len(minutes)], found[5 + len(minutes) :], strict=False):
            for raw, count in _pairs(stats):
                event, _, queue = text_of(raw).partition(":")
                events[shard, minute, event, queue] = number_of(count)
            for raw, count in _pairs(spans):
                times[shard, minute, text_of(raw)] = number_of(count)
        lanes.update(dict(zip(queues, found[5 + 2 * len(minutes) :], strict=True)))
    return FleetNumbers(
        overview=overview,
        instances=instances,
        schedules=schedules,
        waiting=waiting,
        overdue_s=max(0.0, overdue),
        unrecovered_s=unrecovered,
        hold_s=max(0.0, hold),
        limits={name: LimitNumbers(capacity=places[name], in_use=taken[name], lanes=behind[name]) for name in places},
        events=events,
        times=times,
        memory_used=used,
        memory_max=most,
        replica_lag_s=lags,
        acts=await read_acts(stores[0], ACTS_READ),
        lanes=lanes,
    )


def _lag(facts: Mapping[str, str]) -> float:
    """How many seconds the replica that is furthest behind has not been heard of, by INFO."""
    found = [0]
    for name, text in facts.items():
        if name.startswith("slave") and name[5:].isdigit():
            parts = dict(part.split("=", 1) for part in text.strip().split(",") if "=" in part)
            found.append(number_of(parts.get("lag", "0").encode()))
    return float(max(found))


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


async def count_due(store: Store, within_s: float, queues: Collection[str]) -> int:
    """Jobs of these queues that are due within this time, or were; of at most DUE_READ that are due first."""
    now = await now_ms(store)
    key = store.keys.single("scheduled")
    (ids,) = await store.read(("ZRANGEBYSCORE", key, "-inf", now + round(within_s * 1000), "LIMIT", 0, DUE_READ))
    jobs = [job_id for job_id in ids if job_id[:1] != b"\x02"]
    count = 0
    for at in range(0, len(jobs), PAGE):
        count += sum(text_of(queue) in queues for (queue,) in await store.read_fields(jobs[at : at + PAGE], "queue"))
    return count
