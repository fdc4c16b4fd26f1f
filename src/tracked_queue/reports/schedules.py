"""The schedules that the fleet runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..protocol.text import to_bytes
from ..transport.store import Store
from .reading import now_ms, number_of, text_of, time_of

# An instance says at least this often which schedules it runs (see worker/scheduler.py).
SILENT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleReport:
    """One schedule: what it runs and when, its last tick, and when an instance last said that it runs it."""

    name: str
    task: str
    queue: str
    rule: str
    last_tick: datetime | None
    seen_s: float
    paused: bool

    @property
    def silent(self) -> bool:
        """No instance runs it at present."""
        return self.seen_s > SILENT_S


async def read_schedules(store: Store, limit: int = 1000) -> list[ScheduleReport]:
    """All schedules that some instance has run in the last 90 days."""
    now = await now_ms(store)
    flat, paused = await store.read(
        ("ZREVRANGE", store.keys.single("schedules"), 0, limit - 1, "WITHSCORES"),
        ("SMEMBERS", store.keys.single("paused")),
    )
    names = flat[::2]
    facts = await store.read(
        *(
            ("HMGET", to_bytes(store.keys.named("schedule", text_of(name))), "task", "queue", "rule", "last_ms")
            for name in names
        )
    )
    found = [
        ScheduleReport(
            name=text_of(name),
            task=text_of(about[0]),
            queue=text_of(about[1]),
            rule=text_of(about[2]),
            last_tick=time_of(about[3]),
            seen_s=max(0.0, (now - number_of(seen)) / 1000),
            paused=b"schedule:" + name in paused,
        )
        for name, seen, about in zip(names, flat[1::2], facts, strict=True)
    ]
    return sorted(found, key=lambda item: item.name)
