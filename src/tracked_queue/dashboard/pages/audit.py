"""What people did, and what was recovered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...reports.memory import Act, RecoveryReport
from .page import Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What operators did and what was recovered, the newest first."""

    at: datetime
    acts: tuple[Act, ...]
    recoveries: tuple[RecoveryReport, ...]


@page("/audit", "Audit", "audit.html", Param(name="by", doc="Only acts of this person or program."))
async def audit(ask: Ask) -> Audit:
    """What operators did, and what was recovered."""
    desk = ask.desk
    desk.must_see_fleet()
    acts = await desk.cached("acts", 1.0, lambda: desk.reads.acts(500))
    return Audit(
        at=now(),
        acts=tuple(one for one in acts if ask["by"] in (None, one.by))[:200],
        recoveries=tuple((await desk.cached("recoveries", 1.0, lambda: desk.reads.recoveries(200)))[:100]),
    )
