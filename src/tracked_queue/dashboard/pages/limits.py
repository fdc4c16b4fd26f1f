"""Limits, and one limit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...model.constraints import limit_shown
from ...operator.explanation import Explanation
from ...reports.limits import Holder, LimitReport
from .page import FROM, ROWS, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits, those that hold something back first."""

    at: datetime
    rows: tuple[LimitReport, ...]
    matching: int
    next: int | None


@page("/limits", "Limits", "limits.html", FROM)
async def limits(ask: Ask) -> Limits:
    """Limits: how many places are taken, and what waits for one."""
    desk, first = ask.desk, ask["from"]
    desk.must_see_fleet()
    found = await desk.cached("limits", 2.0, desk.reads.limits)
    return Limits(
        at=now(),
        rows=tuple(found[first : first + ROWS]),
        matching=len(found),
        next=first + ROWS if len(found) > first + ROWS else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPage:
    """
    One limit: how it stands in each shard, and at most 100 of those who hold its places; `leaked` ones do not run.
    """

    at: datetime
    name: str
    shown: str
    explanations: tuple[Explanation, ...]
    holders: tuple[Holder, ...]


@page(
    "/limit",
    "Limit",
    "limit.html",
    Param(name="name", doc="As it is stored, or its task's or queue's.", needed=True, length=1000),
)
async def limit(ask: Ask) -> LimitPage:
    """One limit, and who holds its places."""
    desk, name = ask.desk, ask["name"]
    desk.must_see_fleet()
    return LimitPage(
        at=now(),
        name=name,
        shown=limit_shown(name) or name,
        explanations=tuple(await desk.cached(("limit", name), 1.0, lambda: desk.reads.explain(limit=name))),
        holders=tuple(await desk.cached(("holders", name), 1.0, lambda: desk.reads.holders(name))),
    )
