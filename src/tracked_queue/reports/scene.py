"""
What an explanation looks at: one job, queue, limit or fleet, with what surrounds it. A bounded number of reads, none of which
grows with the number of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..model.codec import decode_any
from ..model.constraints import read_limit_name, stored_names
from ..protocol.text import to_bytes
from ..transport.store import Store
from .instances import InstanceReport, read_instances
from .limits import LimitReport, read_limits
from .reading import now_ms, number_of, text_of
from .schedules import SILENT_S

# How far into a list a job is looked for, how many holders of a limit are read, how many of the jobs before one.
SEARCHED, HOLDERS, BEFORE = 10_000, 3, 10
# Counters of this many minutes make a rate.
RATE_MINUTES = 5
# For how long a limit has let nothing of a queue pass before that is worth a word.
BLOCKED_S = 60.0
# A schedule that nobody has run for a day was removed.
DAY_MS = 86_400_000
_LEFT_A_QUEUE = ("succeeded", "failed", "dead", "cancelled", "expired", "retry", "snoozed", "parked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Instances, pauses and what recovery waits for, at `now` (ms, the server's)."""

    now: int
    instances: Sequence[InstanceReport]
    paused: frozenset[str]
    hold_until: int
    sweep: str  # the recovery lock: since when, whose jobs, by whom

    @property
    def closed(self) -> bool:
        """The shard is none any more."""
        return "closed" in self.paused

    def serving(self, queue: str) -> list[InstanceReport]:
        """Instances that have this queue, the lost ones too."""
        return [item for item in self.instances if queue in item.queues]

    def with_task(self, task: str) -> list[InstanceReport]:
        """Live instances that know this task."""
        return [item for item in self.instances if item.alive and task in item.task_names]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueScene:
    """A queue: how many are ready, suspects and in lanes; its marker; how many leave it a second; other queues' lengths."""

    name: str
    ready: int
    suspects: int
    limited: int
    marker: bool
    rate: float
    before: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A job that has a place in a limit; `state` None: it has no record."""

    id: str
    state: str | None
    lease: str
    age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitScene:
    """
    A limit: 'concurrency' with its holders, or 'rate' with the time (ms) of its last start, and of the one that has to leave
    the window before there is room (0: there have not been as many).
    """

    name: str
    kind: str
    most: int
    ms: int
    in_use: int
    holders: Sequence[Holder] = ()
    last_start: int = 0
    nth_start: int = 0
    queues: Mapping[str, int] = field(default_factory=dict)  # with lanes that wait for it

    @property
    def leaked(self) -> list[Holder]:
        """Holders that can't give their place back: no record, or not running."""
        return [holder for holder in self.holders if holder.state != "active"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScene:
    """
    A job and what surrounds it. `ahead` is how many of its list come before it (None: it was not found among the first
    SEARCHED), `lane_turn` how many lanes come before its own (None: its lane may not be taken from now).
    """

    id: str
    record: Mapping[bytes, bytes]
    fleet: Fleet
    queue: QueueScene | None = None
    ahead: int | None = None
    lane_turn: int | None = None
    limits: Sequence[LimitScene] = ()
    testing: Sequence[str] = ()
    listed: bool = True
    timer: str = ""
    before: Sequence[tuple[str, str | None]] = ()


async def read_fleet(store: Store) -> Fleet:
    """The fleet as one shard has it."""
    keys = store.keys
    now = await now_ms(store)
    paused, hold, lock = await store.read(
        ("SMEMBERS", keys.single("paused")), ("GET", keys.single("hold")), ("GET", keys.single("recovery_lock"))
    )
    return Fleet(
        now=now,
        instances=await read_instances(store),
        paused=frozenset(map(text_of, paused)),
        hold_until=number_of(hold),
        sweep=text_of(lock),
    )


async def read_queue_scene(store: Store, fleet: Fleet, queue: str) -> QueueScene:
    """One queue, and how long those are that its instances prefer to it."""
    keys = store.keys
    before = sorted({name for item in fleet.serving(queue) for name in item.queues[: item.queues.index(queue)]})[:5]
    minutes = [keys.named("stats", str(fleet.now // 60_000 - back)) for back in range(RATE_MINUTES)]
    fields = [f"{what}:{queue}" for what in _LEFT_A_QUEUE]
    found = await store.read(
        ("LLEN", keys.named("queue", queue)),
        ("ZCARD", keys.named("suspected", queue)),
        ("HGET", keys.single("laned"), queue),
        ("EXISTS", keys.wake_of(queue)),
        *(("HMGET", key, *fields) for key in minutes),
        *(("LLEN", keys.named("queue", name)) for name in before),
    )
    counts = found[4 : 4 + RATE_MINUTES]
    span_s = (RATE_MINUTES - 1) * 60 + fleet.now % 60_000 / 1000
    return QueueScene(
        name=queue,
        ready=found[0],
        suspects=found[1],
        limited=number_of(found[2]),
        marker=bool(found[3]),
        rate=sum(number_of(count) for minute in counts for count in minute) / span_s,
        before=dict(zip(before, found[4 + RATE_MINUTES :], strict=True)),
    )


async def read_limit_scene(
    store: Store, now: int, name: str, kind: str = "", most: int = 0, ms: int = 0, *, waits: int = 0
) -> LimitScene:
    """
    One limit by its whole name; what the caller does not know of it is read where something waits for it.

    Args:
        waits: Of how many queues the lanes that wait for it are counted.
    """
    keys = store.keys
    about, in_use, ids, last, waiting = await store.read(
        ("HMGET", keys.named("about", name), "kind", "number", "ms", "base"),
        ("SCARD", keys.named("permits", name)),
        ("SRANDMEMBER", keys.named("permits", name), HOLDERS),
        ("LINDEX", keys.named("rate", name), 0),
        ("ZRANGE", keys.named("waits", name), *((0, waits - 1) if waits else (1, 0))),
    )
    (number,) = await store.read(("HGET", keys.single("limits"), text_of(about[3]) or name))
    records = await store.read_fields(ids, "state", "lease", "delivery")
    groups = await store.read(
        *(("ZCARD", to_bytes(keys.named("waiting", f"{name}\n{text_of(queue)}"))) for queue in waiting)
    )
    most = number_of(number) or most or number_of(about[1])
    nth, known = None, read_limit_name(name)
    if known is not None and known.per_ms:
        kind, ms = "rate", ms or known.per_ms
    if last is not None:
        kind = "rate"
        (nth,) = await store.read(("LINDEX", keys.named("rate", name), most - 1)) if most else (None,)
    return LimitScene(
        name=name,
        kind=kind or text_of(about[0]) or "concurrency",
        most=most,
        ms=ms or number_of(about[2]),
        in_use=in_use,
        holders=[
            Holder(
                id=text_of(job_id),
                state=text_of(state) if state else None,
                lease=text_of(lease),
                age_s=(now - abs(number_of(delivery))) / 1000 if delivery else None,
            )
            for job_id, (state, lease, delivery) in zip(ids, records, strict=True)
        ],
        last_start=number_of(last),
        nth_start=number_of(nth),
        queues=dict(zip(map(text_of, waiting), groups, strict=True)),
    )


async def limit_names(store: Store, shown: str) -> list[str]:
    """Stored names of limits that people know by this one: as it is, and those of the limits that instances have told of."""
    (known,) = await store.read(("HGETALL", store.keys.single("limits")))
    bases = [(base, read_limit_name(base)) for base in map(text_of, known[::2])]
    return [*stored_names(shown), *(base for base, about in bases if about and about.shown == shown and not about.key)]


async def read_job_scene(store: Store, job_id: str, record: Mapping[bytes, bytes]) -> JobScene:
    """A job that is there, with what its state makes worth looking at."""
    keys, fleet = store.keys, await read_fleet(store)
    raw, state = to_bytes(job_id), text_of(record.get(b"state"))
    queue = text_of(record.get(b"queue")) or "default"
    if state == "queued":
        return await _queued(store, job_id, record, fleet, queue)
    if state == "scheduled":
        score, timer = await store.read(
            ("ZSCORE", keys.single("scheduled"), raw), ("HMGET", keys.single("timer"), "lease", "at")
        )
        return JobScene(id=job_id, record=record, fleet=fleet, listed=score is not None, timer=text_of(timer[0]))
    if state == "waiting":
        ids = [item for item in _list(record.get(b"after")) if isinstance(item, str)][:BEFORE]
        states = await store.read_fields(ids, "state")
        (score,) = await store.read(("ZSCORE", keys.single("dependents"), raw))
        before = [(one, text_of(found) if found else None) for one, (found,) in zip(ids, states, strict=True)]
        return JobScene(id=job_id, record=record, fleet=fleet, before=before, listed=score is not None)
    if state == "active":
        lease = text_of(record.get(b"lease"))
        (member,) = await store.read(("SISMEMBER", keys.processing_of(lease), raw))
        return JobScene(id=job_id, record=record, fleet=fleet, listed=bool(member))
    return JobScene(id=job_id, record=record, fleet=fleet)


async def _queued(store: Store, job_id: str, record: Mapping[bytes, bytes], fleet: Fleet, queue: str) -> JobScene:
    keys, raw = store.keys, to_bytes(job_id)
    lane = record.get(b"lane") if not record.get(b"pool") else None
    if lane is not None and not lane.startswith(to_bytes(queue) + b"\n"):
        lane = None
    line = to_bytes(keys.named("lane", "")) + lane if lane is not None else to_bytes(keys.named("queue", queue))
    length, at, rank, turn, testing = await store.read(
        ("LLEN", line),
        ("LPOS", line, raw, "RANK", -1, "MAXLEN", SEARCHED),
        ("ZRANK", keys.named("suspected", queue), raw),
        ("ZRANK", keys.named("lanes", queue), lane or b""),
        ("ZRANGE", keys.single("testing"), 0, 4),
    )
    suspect = b"pool" in record
    ahead = rank if suspect else None if at is None else length - 1 - at
    limits = []
    for limit in _list(record.get(b"limits"))[:2]:
        if isinstance(limit, list) and len(limit) >= 4 and isinstance(limit[0], str):
            limits.append(
                await read_limit_scene(store, fleet.now, limit[0], str(limit[1]), _whole(limit[2]), _whole(limit[3]))
            )
    return JobScene(
        id=job_id,
        record=record,
        fleet=fleet,
        queue=await read_queue_scene(store, fleet, queue),
        ahead=ahead,
        lane_turn=turn,
        limits=limits,
        testing=tuple(map(text_of, testing)),
        listed=ahead is not None or length > SEARCHED,
    )


def _list(packed: bytes | None) -> list[object]:
    try:
        found = decode_any(packed)
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and abs(value) < 2**53 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """What is known of an id without a record: its last end, acts that name it, and what the server has dropped."""

    end: tuple[str, int] | None = None  # state, ms
    evicted: int = 0
    policy: str = ""
    uptime_s: int = 0


async def read_absence(store: Store, job_id: str) -> Absence:
    """Look for an id among the last ends of up to 20 queues, and at what the server has thrown away."""
    keys = store.keys
    info, names = await store.read(("INFO",), ("SRANDMEMBER", keys.single("queues"), 20))
    rings = await store.read(*(("LRANGE", to_bytes(keys.named("ends", text_of(name))), 0, -1) for name in names))
    end, tail = None, b" " + to_bytes(job_id)
    for entry in (entry for ring in rings for entry in ring if entry.endswith(tail)):
        ms, state, *_ = entry.split(b" ")
        end = end or (text_of(state), number_of(ms))
    facts = dict(line.split(":", 1) for line in text_of(info).splitlines() if ":" in line)
    return Absence(
        end=end,
        evicted=number_of(facts.get("evicted_keys", "0").encode()),
        policy=facts.get("maxmemory_policy", ""),
        uptime_s=number_of(facts.get("uptime_in_seconds", "0").encode()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """
    What lies in time, in one shard: the oldest due time (ms; 0 for none), how many died within the last minutes, limits
    without a free place that something has waited for, and schedules that were run within a day and are not any more, with
    for how long.
    """

    first_due: int
    dead_lately: int
    suspecting: int
    blocked: Sequence[LimitReport] = ()
    silent: Mapping[str, float] = field(default_factory=dict)


async def read_backlog(store: Store, now: int, minutes: int) -> Backlog:
    """For the fleet's problems."""
    keys = store.keys
    first, dead, suspecting, silent = await store.read(
        ("ZRANGE", keys.single("scheduled"), 0, 0, "WITHSCORES"),
        ("ZREVRANGEBYSCORE", keys.single("dead"), "+inf", now - minutes * 60_000, "LIMIT", 0, 1000),
        ("SCARD", keys.single("suspecting")),
        (
            "ZRANGEBYSCORE",
            keys.single("schedules"),
            now - DAY_MS,
            now - round(SILENT_S * 1000),
            "WITHSCORES",
            "LIMIT",
            0,
            20,
        ),
    )
    limits = await read_limits([store])
    return Backlog(
        first_due=number_of(first[1]) if first else 0,
        dead_lately=len(dead),
        suspecting=suspecting,
        blocked=[one for one in limits if one.lanes and one.waits_s is not None and one.waits_s >= BLOCKED_S],
        silent={
            text_of(name): (now - number_of(seen)) / 1000 for name, seen in zip(silent[::2], silent[1::2], strict=True)
        },
    )


async def count_parked(store: Store, task: str) -> int:
    """Parked jobs of a task."""
    (count,) = await store.read(("LLEN", store.keys.named("parked", task)))
    return int(count)
