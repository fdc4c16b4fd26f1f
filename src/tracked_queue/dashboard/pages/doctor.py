"""Whether servers and settings keep the promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ...operator.doctor import Finding
from ...reports.instances import one_each
from ...settings import setting_doc, setting_names
from .common import picture_of
from .page import Ask, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting: its value here, where that came from, and what it means."""

    name: str
    value: str
    source: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Whether servers and settings keep the promise, and the settings of this dashboard."""

    at: datetime
    findings: tuple[Finding, ...]
    settings: tuple[SettingRow, ...]
    shards: int
    versions: Mapping[str, int] = field(default_factory=dict)


@page("/doctor", "Doctor", "doctor.html")
async def doctor(ask: Ask) -> Doctor:
    """Whether servers and settings keep the promise. What the scripts need is not tried here: `tracked-queue doctor` does."""
    desk = ask.desk
    desk.must_see_fleet()
    picture = await picture_of(ask)
    return Doctor(
        at=now(),
        findings=tuple(await desk.cached("doctor", 10.0, lambda: desk.reads.examine(try_scripts=False))),
        settings=tuple(
            SettingRow(
                name=name,
                value=str(desk.settings.shown(name)),
                source=desk.settings.sources.get(name, "default"),
                doc=setting_doc(name),
            )
            for name in setting_names()
        ),
        shards=desk.settings.shards,
        versions=dict(Counter(one.version for one in one_each(picture.instances) if one.alive)),
    )
