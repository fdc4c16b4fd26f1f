"""Schedules, with their next ticks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from ...reports.schedules import ScheduleReport
from .page import FROM, ROWS, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """
    A schedule, its next ticks (none where the rule can't be read), the zone of its rule, and the job of its last tick.
    """

    schedule: ScheduleReport
    next_ticks: tuple[datetime, ...]
    zone: str
    last_job: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """A part of the schedules; `zone` is that of this dashboard, in which ticks are shown besides their own."""

    at: datetime
    rows: tuple[ScheduleRow, ...]
    matching: int
    next: int | None
    zone: str
    can_trigger: bool


TICKS = 5
MOST_RULE = 200


@page("/schedules", "Schedules", "schedules.html", Param(name="like", doc="Only with this in the name or task."), FROM)
async def schedules(ask: Ask) -> Schedules:
    """Schedules: what runs when, when it ran last, and when it runs next."""
    desk, like, first = ask.desk, (ask["like"] or "").casefold(), ask["from"]
    found = [
        one
        for one in desk.seen(await desk.cached("schedules", 2.0, desk.reads.schedules))
        if like in one.name.casefold() or like in one.task.casefold()
    ]
    moment = now()
    rows = []
    for one in found[first : first + ROWS]:
        ticks, zone = next_ticks(one.rule, moment)
        last_job = f"cron:{one.name}:{round(one.last_tick.timestamp() * 1000)}" if one.last_tick else None
        rows.append(ScheduleRow(schedule=one, next_ticks=ticks, zone=zone, last_job=last_job))
    return Schedules(
        at=moment,
        rows=tuple(rows),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
        zone=ask.zone.key,
        can_trigger=desk.has_code,
    )


def next_ticks(rule: str, after: datetime) -> tuple[tuple[datetime, ...], str]:
    """The next ticks of a rule as the store has it, in its zone, and the zone; none for what is no rule. Always bounded."""
    if len(rule) > MOST_RULE:
        return (), ""
    if rule.startswith("every "):
        try:
            step = round(float(rule.removeprefix("every ").removesuffix(" s")) * 1000)
        except (ValueError, OverflowError):
            return (), ""
        if not 0 < step < 2**45:
            return (), ""
        first = int(after.timestamp() * 1000) // step * step
        try:
            return tuple(datetime.fromtimestamp((first + at * step) / 1000, UTC) for at in range(1, TICKS + 1)), "UTC"
        except (ValueError, OverflowError, OSError):
            return (), ""
    expression, _, name = rule.rpartition(" ")
    try:
        zone = ZoneInfo(name)
        found = tuple(islice(CronSim(expression, after.astimezone(zone)), TICKS))
    except (CronSimError, ZoneInfoNotFoundError, ValueError, OSError, OverflowError):
        return (), ""
    return found, name
