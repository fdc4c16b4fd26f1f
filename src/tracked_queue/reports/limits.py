"""Limits: what they allow, what is in use, and what waits for them. A bounded number of reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model.constraints import read_limit_name
from ..transport.store import Store
from .reading import now_ms, number_of, text_of

# How many limits of one name (one for each value of its key) are listed: those that something waits for.
MOST_KEYS = 20
MOST_NAMES = 500
# Of so many queues of a limit the lanes that wait are counted.
MOST_QUEUES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """
    One limit: `most` jobs at a time or, for a rate, starts within `per_s`; `in_use` is how many of those there are now.
    `lanes` is how many lanes of jobs wait for it, `waits_s` how long the queue that waited first has not had a place of it.
    """

    limit: str
    key: str
    kind: str
    most: int
    per_s: float
    in_use: int
    lanes: int
    waits_s: float | None
    stored: str
    shard: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """
    A job that holds a place of a concurrency limit; `leaked`: it does not run, so that the place is held by nobody. A lost
    instance's jobs still hold theirs until they are recovered.
    """

    id: str
    state: str
    task: str
    queue: str
    lease: str
    age_s: float | None
    leaked: bool
    shard: int = 0


async def read_holders(stores: Sequence[Store], name: str, limit: int = 100) -> list[Holder]:
    """Who holds places of a limit, by its stored name; those that leaked first, then the oldest."""
    found: list[Holder] = []
    for shard, store in enumerate(stores):
        now = await now_ms(store)
        (ids,) = await store.read(("SRANDMEMBER", store.keys.named("permits", name), limit))
        records = await store.read_fields(ids, "state", "task", "queue", "lease", "delivery")
        for job_id, (state, task, queue, lease, delivery) in zip(ids, records, strict=True):
            found.append(
                Holder(
                    id=text_of(job_id),
                    state=text_of(state),
                    task=text_of(task),
                    queue=text_of(queue),
                    lease=text_of(lease),
                    age_s=(now - abs(number_of(delivery))) / 1000 if delivery else None,
                    leaked=state != b"active",
                    shard=shard,
                )
            )
    return sorted(found, key=lambda one: (not one.leaked, -(one.age_s or 0.0), one.id))[:limit]


async def read_limits(stores: Sequence[Store]) -> list[LimitReport]:
    """Every limit without a key, and of those with one the first that something waits for; full ones first."""
    found: list[LimitReport] = []
    for shard, store in enumerate(stores):
        found += await _of_shard(store, shard)
    return sorted(found, key=lambda one: (-one.lanes, one.limit, one.key, one.shard))


async def _of_shard(store: Store, shard: int) -> list[LimitReport]:
    keys, now = store.keys, await now_ms(store)
    (flat,) = await store.read(("HGETALL", keys.single("limits")))
    numbers = {text_of(base): number_of(number) for base, number in zip(flat[::2], flat[1::2], strict=True)}
    bases = sorted(numbers)
    if len(bases) > MOST_NAMES:  # those that something waits for first
        counts = await store.read(*(("ZCARD", keys.named("waited", base)) for base in bases))
        bases = [base for _, base in sorted(zip([-count for count in counts], bases, strict=True))][:MOST_NAMES]
    waited = await store.read(*(("ZRANGE", keys.named("waited", base), 0, MOST_KEYS - 1) for base in bases))
    names: list[tuple[str, str]] = []
    for base, waiting in zip(bases, waited, strict=True):
        about = read_limit_name(base)
        own = {text_of(name) for name in waiting} | ({base} if about is None or not about.key else set())
        names += [(base, name) for name in sorted(own)]
    commands = [
        command
        for _, name in names
        for command in (
            ("SCARD", keys.named("permits", name)),
            ("ZRANGE", keys.named("waits", name), 0, MOST_QUEUES - 1, "WITHSCORES"),
            ("HGET", keys.named("about", name), "number"),
        )
    ]
    replies = await store.read(*commands)
    parts = list(zip(names, replies[::3], replies[1::3], replies[2::3], strict=True))
    groups = [(name, text_of(queue)) for (_, name), _, waits, _ in parts for queue in waits[::2]]
    sizes = await store.read(*(("ZCARD", keys.named("waiting", f"{name}\n{queue}")) for name, queue in groups))
    lanes: dict[str, int] = {}
    for (name, _), count in zip(groups, sizes, strict=True):
        lanes[name] = lanes.get(name, 0) + count
    periods = {name: about.per_ms for _, name in names if (about := read_limit_name(name)) and about.per_ms}
    starts = await _starts_within(store, periods, now)
    reports = []
    for (base, name), permits, waits, number in parts:
        about = read_limit_name(name)
        per_ms = 0 if about is None else about.per_ms
        since = number_of(waits[1]) if len(waits) > 1 else 0
        reports.append(
            LimitReport(
                limit=base if about is None else about.shown,
                key="" if about is None else about.value,
                kind="rate" if per_ms else "concurrency",
                most=numbers[base] or number_of(number),
                per_s=per_ms / 1000,
                in_use=starts.get(name, 0) if per_ms else permits,
                lanes=lanes.get(name, 0),
                waits_s=max(0.0, (now - since) / 1000) if since else None,
                stored=name,
                shard=shard,
            )
        )
    return reports


async def _starts_within(store: Store, periods: Mapping[str, int], now: int) -> dict[str, int]:
    """How many starts of each rate lie within its period; they are kept with the newest first, and looked for by halves."""
    keys = {name: store.keys.named("rate", name) for name in periods}
    lengths = await store.read(*(("LLEN", key) for key in keys.values()))
    low, high = dict.fromkeys(keys, 0), dict(zip(keys, map(int, lengths), strict=True))
    while open_ones := [name for name in keys if low[name] < high[name]]:
        middles = {name: (low[name] + high[name]) // 2 for name in open_ones}
        found = await store.read(*(("LINDEX", keys[name], at) for name, at in middles.items()))
        for (name, at), start in zip(middles.items(), found, strict=True):
            if number_of(start) > now - periods[name]:
                low[name] = at + 1
            else:
                high[name] = at
    return low
