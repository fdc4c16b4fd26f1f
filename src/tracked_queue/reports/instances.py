"""Instances, what they own, and when they were last seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ..protocol.text import to_bytes
from ..protocol.transitions import InstanceFacts, instances
from ..transport.store import Store
from .reading import PAGE, now_ms, number_of, scan, text_of, time_of


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """One instance: who it is, what it serves, what it owns, and when it was last seen."""

    lease: str
    label: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    task_names: tuple[str, ...]
    concurrency: int
    started_at: datetime | None
    seen_s: float | None
    deadline_s: float
    revoked: bool
    quiet: bool
    owned: int
    tests: bool
    machine: str
    born: str
    program: str
    shard: int = 0
    most: Mapping[str, int] = field(default_factory=dict)  # of these queues it runs at most so many jobs at once

    @property
    def alive(self) -> bool:
        """Its lease is open and not past its deadline."""
        return not self.revoked and self.deadline_s > 0


_FIELDS = (
    "label", "host", "pid", "version", "queues", "tasks", "concurrency", "started_ms", "seen_ms", "quiet", "held", "machine",
    "born", "program", "most",
)  # fmt: skip


async def read_instances(store: Store, limit: int = 1000) -> list[InstanceReport]:
    """All instances, the dead ones that still own jobs included."""
    now = await now_ms(store)
    facts: list[InstanceFacts] = []
    while len(facts) < limit:
        page = await store.run(instances(_FIELDS, len(facts), min(PAGE, limit - len(facts))))
        facts += page
        if len(page) < PAGE:
            break
    found = []
    for raw, deadline, owned, fields in facts:
        lease = text_of(raw)
        about = {name: value for name, value in zip(_FIELDS, fields, strict=True) if value is not None}
        seen = about.get("seen_ms")
        found.append(
            InstanceReport(
                lease=lease,
                label=text_of(about.get("label")),
                host=text_of(about.get("host")),
                pid=number_of(about.get("pid")),
                version=text_of(about.get("version")),
                queues=tuple(text_of(about.get("queues")).split("\n")) if about.get("queues") else (),
                task_names=tuple(text_of(about.get("tasks")).split("\n")) if about.get("tasks") else (),
                concurrency=number_of(about.get("concurrency")),
                started_at=time_of(about.get("started_ms")),
                seen_s=(now - number_of(seen)) / 1000 if seen else None,
                deadline_s=(deadline - now) / 1000 if deadline else 0.0,
                revoked=deadline == 0,
                quiet=about.get("quiet") == b"1",
                owned=owned,
                tests="held" in about,
                machine=text_of(about.get("machine")),
                born=text_of(about.get("born")),
                program=text_of(about.get("program")),
                most=_most(text_of(about.get("most"))),
            )
        )
    return found


async def read_all_instances(stores: Sequence[Store]) -> list[InstanceReport]:
    """Those of all shards, shard by shard."""
    return [replace(item, shard=shard) for shard, store in enumerate(stores) for item in await read_instances(store)]


def one_each(instances: Iterable[InstanceReport]) -> list[InstanceReport]:
    """One for each process: with several shards a process has an instance in each, which share its slots."""
    return list({(one.host, one.pid, one.machine, one.born, one.label): one for one in instances}.values())


def _most(text: str) -> dict[str, int]:
    pairs = (line.rpartition("=") for line in text.split("\n"))
    return {queue: int(count) for queue, _, count in pairs if queue and count.isdecimal() and len(count) < 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveJob:
    """A job in some instance's processing list."""

    id: str
    task: str
    lease: str
    age_s: float | None
    buffered: bool


async def read_active(store: Store, lease: str, limit: int = PAGE) -> list[ActiveJob]:
    """The first `limit` jobs of one instance, the oldest first."""
    now = await now_ms(store)
    active: dict[str, ActiveJob] = {}
    async for ids in scan(store, "SSCAN", store.keys.named("processing", lease)):
        for at in range(0, len(ids), PAGE):
            page = ids[at : at + PAGE]
            found = await store.read_fields(page, "task", "delivery", "buffered")
            for job_id, (task, delivery, buffered) in zip(page, found, strict=True):
                active[text_of(job_id)] = ActiveJob(
                    id=text_of(job_id),
                    task=text_of(task),
                    lease=lease,
                    age_s=max(0.0, (now - abs(number_of(delivery))) / 1000) if delivery else None,
                    buffered=buffered == b"1",
                )
    return sorted(active.values(), key=lambda job: (-(job.age_s or 0.0), job.id))[:limit]


async def lease_deadline(store: Store, lease: str) -> float | None:
    """Seconds until a lease's deadline (negative: past it); None when it is revoked or gone."""
    now = await now_ms(store)
    (score,) = await store.read(("ZSCORE", store.keys.single("instances"), to_bytes(lease)))
    if score is None or float(score) == 0:
        return None
    return (float(score) - now) / 1000
