"""Templates: everything that they put out is escaped, and what can't be seen in it is made visible."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ...model.constraints import limit_shown
from ...operator.explanation import Explanation, seconds
from ...operator.timeline import CAUSES
from ...reports.memory import Act
from ...settings import Settings
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
DEFAULT_NAMESPACE = Settings.namespace
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
            facts=_facts,
            sentence=_sentence,
            shell=shlex.quote,
            causes=CAUSES,
            limit_shown=lambda name: limit_shown(name) or name,
            zone=zone.key,
        )

    def render(self, template: str, **names: Any) -> str:
        """One page."""
        base = names["base"]

        def to(path: str, **query: Any) -> str:
            return link(base, path, **query)

        desk = names.get("desk")
        space = (
            "" if desk is None or desk.namespace == DEFAULT_NAMESPACE else f" --namespace {shlex.quote(desk.namespace)}"
        )

        def command(text: str) -> str:
            """A command for this namespace, to be copied."""
            return f"{text}{space}" if text.startswith("tracked-queue ") else text

        return self._environment.get_template(template).render(to=to, command=command, **names)

    def _moment(self, at: datetime | None, zone: str | None = None, exact: bool = False) -> Markup:
        """A time, absolute, with its zone; to the ms if wanted."""
        if at is None:
            return Markup("&ndash;")
        here = ZoneInfo(zone) if zone else self._zone
        try:
            local = at.astimezone(here)
        except OverflowError:  # the last day of the calendar, or the first
            local = at
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


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _facts(act: Act) -> str:
    """What an act was about, and what came of it."""
    said = []
    for name, value in act.facts.items():
        if name == "answers" and isinstance(value, dict):
            words = Counter(map(str, value.values()))
            said.append(", ".join(f"{count} {word}" for word, count in words.items()))
        elif name == "what":
            said.append(str(value).replace(":", " ", 1))
        elif name == "changed":
            said += [] if value else ["nothing changed"]
        elif isinstance(value, list):
            said.append(f"{name} {', '.join(map(str, value[:5]))}{', …' if len(value) > 5 else ''}")
        else:
            said.append(f"{name} {value}")
    return "; ".join(said)[:1000]


def _since(one: Explanation) -> float | None:
    """For how long it has been so, as far as is known."""
    return max([fact.age_s for fact in one.facts if fact.age_s is not None], default=None)
