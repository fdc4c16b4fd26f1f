"""Instances, and one instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ...errors import NotVisibleError
from ...operator.explanation import Explanation
from ...reports.instances import ActiveJob, InstanceReport, one_each
from .common import picture_of
from .page import FROM, ROWS, Ask, Param, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Lost instances with the jobs that they own, and a part of the live ones; versions of the live ones, if they differ."""

    at: datetime
    lost: tuple[InstanceReport, ...]
    rows: tuple[InstanceReport, ...]
    matching: int
    next: int | None
    versions: Mapping[str, int] = field(default_factory=dict)


@page(
    "/instances", "Instances", "instances.html", Param(name="like", doc="Only with this in label, host or lease."), FROM
)
async def instances(ask: Ask) -> Instances:
    """Instances: which are there, what they own, and which are gone."""
    ask.desk.must_see_fleet()
    picture, like, first = await picture_of(ask), (ask["like"] or "").casefold(), ask["from"]
    live = [
        one
        for one in picture.instances
        if one.alive and any(like in text.casefold() for text in (one.label, one.host, one.lease))
    ]
    live.sort(key=lambda one: (one.label, one.lease))
    versions = Counter(one.version for one in one_each(picture.instances) if one.alive)
    return Instances(
        at=picture.at,
        lost=tuple(one for one in picture.instances if not one.alive)[:ROWS],
        rows=tuple(live[first : first + ROWS]),
        matching=len(live),
        next=first + ROWS if len(live) > first + ROWS else None,
        versions=dict(versions),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePage:
    """One instance: what it is and how it stands, and the jobs that it owns, the oldest first."""

    at: datetime
    instance: InstanceReport
    explanation: Explanation
    active: tuple[ActiveJob, ...]


@page("/instance", "Instance", "instance.html", Param(name="lease", doc="Its lease.", needed=True))
async def instance(ask: Ask) -> InstancePage:
    """One instance, and the jobs that it owns."""
    desk = ask.desk
    desk.must_see_fleet()
    picture = await picture_of(ask)
    found = next((one for one in picture.instances if one.lease == ask["lease"]), None)
    if found is None:
        raise NotVisibleError(f"there is no instance {ask['lease']}: it has stopped, or its jobs were recovered")
    report = found
    return InstancePage(
        at=picture.at,
        instance=report,
        explanation=(
            await desk.cached(("instance", report.lease), 1.0, lambda: desk.reads.explain(instance=report.lease))
        )[0],
        active=tuple(await desk.cached(("active", report.lease), 1.0, lambda: desk.reads.active(report, limit=250))),
    )
