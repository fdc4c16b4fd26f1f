"""Celery's `beat_schedule`: its entries as schedules that the workers run; no beat process is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...model.schedules import Planned

if TYPE_CHECKING:
    from .app import Celery

Field = str | int | Iterable[int]


class crontab:
    """
    Celery's crontab; what is not given is every one. Ranges may go over the end (`hour="22-6"`); days and months have names.

    Raises:
        UsageError: A field can't be read; or both the day of the week and that of the month are given: Celery runs where both
            fit, cron where one does.
    """

    def __init__(
        self,
        minute: Field = "*",
        hour: Field = "*",
        day_of_week: Field = "*",
        day_of_month: Field = "*",
        month_of_year: Field = "*",
    ) -> None:
        given = {
            "minute": minute, "hour": hour, "day_of_month": day_of_month, "month_of_year": month_of_year,
            "day_of_week": day_of_week,
        }  # fmt: skip
        parts = {name: _field(name, value) for name, value in given.items()}
        if parts["day_of_week"] != "*" and parts["day_of_month"] != "*":
            raise UsageError(
                "crontab: day_of_week= and day_of_month= were both given: Celery runs where both fit, cron where one does; "
                "give one, and look at the other in the task"
            )
        self.expression = " ".join(parts.values())

    def __repr__(self) -> str:
        return f"<crontab {self.expression}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)


_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Of each field the first and the last number, and names of them.
_FIELDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day_of_month": (1, 31, ()),
    "month_of_year": (1, 12, _MONTHS),
    "day_of_week": (0, 6, _DAYS),
}
_RANGE = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")


def _field(name: str, value: Field) -> str:
    """A field as cron has it: as it was given, or the numbers that it means, where cron would not read it."""
    (first, last, _), ours = _FIELDS[name], True
    items = [str(value)] if isinstance(value, str | int) else [str(item) for item in sorted(value)]
    found: set[int] = set()
    for item in ",".join(items).split(","):
        match = _RANGE.fullmatch(item.replace(" ", ""))
        if match is None or (match[4] and not match[1] and match[3] is None):
            raise UsageError(f"crontab: {name}={value!r}: {item!r} is none of *, 5, 1-5, */2, 1-5/2")
        low = first if match[1] else _number(name, value, match[2])
        high = last if match[1] else low if match[3] is None else _number(name, value, match[3])
        numbers = range(low, high + 1) if low <= high else [*range(low, last + 1), *range(first, high + 1)]
        ours &= low <= high and all(len(part) <= 3 for part in (match[2] or "", match[3] or ""))
        step = int(match[4] or 1)
        if not step:
            raise UsageError(f"crontab: {name}={value!r}: a step of 0")
        found.update(numbers[::step])
    if len(found) == last - first + 1:
        return "*"
    return ",".join(items).replace(" ", "") if ours else ",".join(map(str, sorted(found)))


def _number(name: str, value: Field, text: str) -> int:
    first, last, names = _FIELDS[name]
    if text.isdecimal():
        number = int(text)
        if name == "day_of_week" and number == 7:
            number = 0  # as cron has it
    else:
        short = text[:3].lower()
        number = names.index(short) + first if short in names else -1
    if not first <= number <= last:
        raise UsageError(f"crontab: {name}={value!r}: {text!r} is not from {first} to {last}")
    return number


class _Unknown:
    """In the place of a call: says what is wrong when the schedule is refused."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def __repr__(self) -> str:
        return self._problem


def source_of(
    app: Celery, entries: Mapping[str, Mapping[str, Any]], tz: str
) -> Callable[[], Coroutine[Any, Any, Sequence[Planned]]]:
    """A source of schedules: the entries, whose tasks may be defined later."""

    async def beat_schedule() -> list[Planned]:
        return [_planned(app, name, entry, tz) for name, entry in entries.items()]

    return beat_schedule


def refused(app: Celery, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The entries that no worker would run, and why, now that all tasks are known."""
    planned = [_planned(app, name, entry, "UTC") for name, entry in entries.items()]
    return {one.name: repr(one.call) for one in planned if isinstance(one.call, _Unknown)}


def _planned(app: Celery, name: str, entry: Mapping[str, Any], tz: str) -> Planned:
    call: Any
    try:
        task = app.tasks[entry["task"]]
        call = task.call(entry.get("args"), entry.get("kwargs"), entry.get("options") or {})
    except KeyError as error:
        call = _Unknown(f"there is no task {error.args[0]!r}, or the entry names none")
    except UsageError as error:
        call = _Unknown(str(error))
    rule = entry.get("schedule")
    cron = every = None
    expression = None
    try:
        expression = getattr(rule, "expression", None) or _of_celery(rule)
    except UsageError as error:
        call = _Unknown(str(error))
    if isinstance(expression, str):
        cron = expression
    elif isinstance(rule, int | float | timedelta) and not isinstance(rule, bool):
        every = rule
    elif not isinstance(call, _Unknown):
        call = _Unknown(f"schedule={rule!r}: it can be a crontab, seconds or a timedelta")
    return Planned(name=name, call=call, cron=cron, every=every, tz=tz)


def _of_celery(rule: Any) -> str | None:
    """The crontab of Celery itself, where that is still installed."""
    parts = [
        getattr(rule, f"_orig_{part}", None)
        for part in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    ]
    if any(part is None for part in parts):
        return None
    minute, hour, day_of_month, month_of_year, day_of_week = parts
    return crontab(minute, hour, day_of_week, day_of_month, month_of_year).expression  # type: ignore[arg-type]
