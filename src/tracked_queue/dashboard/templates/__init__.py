"""Templates: everything that they put out is escaped, and what can't be seen in it is made visible."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ...operator.explanation import Explanation, seconds
from .. import charts
from ..desk import why
from ..static import ICON, SCRIPT, STYLE
from ..text import as_json, finalize, link, shown

# Where a part of a problem's subject is shown.
_SUBJECTS = {
    "queue": ("/queue", "name"),
    "task": ("/task", "name"),
    "instance": ("/instance", "lease"),
    "limit": ("/limit", "name"),
    "job": ("/job", "id"),
}
# A dash for what is not known.
NONE = "\N{EN DASH}"
_FLEET = {
    "fleet.lost": "/lost",
    "fleet.hold": "/lost",
    "fleet.nobody": "/instances",
    "fleet.quiet": "/instances",
    "fleet.versions": "/instances",
    "fleet.overdue": "/schedules",
    "fleet.dead": "/dead",
    "fleet.suspects": "/queues",
}


class Templates:
    """
    The templates of one dashboard.

    Args:
        badge: Said beside the name on each page.
        zone: In which times are shown.
        floor: The shortest time in seconds between two looks of a page.
    """

    def __init__(self, *, badge: str, zone: ZoneInfo, floor: int) -> None:
        self._zone = zone
        self._environment = Environment(
            loader=PackageLoader("tracked_queue.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=finalize,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            badge=badge,
            is_production="prod" in badge.casefold(),
            floor=floor,
            style=STYLE,
            script=SCRIPT,
            icon=ICON,
            charts=charts,
            seconds=_seconds,
            count=_count,
            json=as_json,
            why=why,
            moment=self._moment,
            lines=_lines,
            quoted=lambda text: quote(text, safe=""),
            subject=_subject,
            since=_since,
            zone=zone.key,
        )

    def render(self, template: str, **names: Any) -> str:
        """One page."""
        base = names["base"]

        def to(path: str, **query: Any) -> str:
            return link(base, path, **query)

        return self._environment.get_template(template).render(to=to, **names)

    def _moment(self, at: datetime | None, zone: str | None = None, exact: bool = False) -> Markup:
        """A time, absolute, with its zone; to the ms if wanted."""
        if at is None:
            return Markup("&ndash;")
        here = ZoneInfo(zone) if zone else self._zone
        local = at.astimezone(here)
        ms = f".{local.microsecond // 1000:03}" if exact else ""
        text = f"{local:%Y-%m-%d %H:%M:%S}{ms} {local:%Z}"
        return Markup(f'<time datetime="{escape(at.isoformat())}">{escape(text)}</time>')


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"-{seconds(-value)}" if value < 0 else seconds(value)


def _count(value: float) -> str:
    """A number with its thousands apart; of a pace, as many digits as matter."""
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _lines(text: str | None) -> Markup:
    """Text of several lines, for a <pre>."""
    return escape(shown(text or "", lines=True))


def _subject(one: Explanation) -> tuple[str, Mapping[str, str]] | None:
    """The page that shows what a problem is about, and its query."""
    kind, _, name = one.about.partition(" ")
    if kind in _SUBJECTS and name:
        path, parameter = _SUBJECTS[kind]
        return path, {parameter: name}
    found = [path for code, path in _FLEET.items() if one.code.startswith(code)]
    return (found[0], {}) if found else None


def _since(one: Explanation) -> float | None:
    """For how long it has been so, as far as is known."""
    return max([fact.age_s for fact in one.facts if fact.age_s is not None], default=None)
