"""Celery's `beat_schedule`: its entries as schedules that the workers run; no beat process is needed."""

from __future__ import annotations

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
    Celery's crontab; what is not given is every one.

    Raises:
        UsageError: Both the day of the week and that of the month are given: Celery runs where both fit, cron where one does.
    """

    def __init__(
        self,
        minute: Field = "*",
        hour: Field = "*",
        day_of_week: Field = "*",
        day_of_month: Field = "*",
        month_of_year: Field = "*",
    ) -> None:
        if _field(day_of_week) != "*" and _field(day_of_month) != "*":
            raise UsageError(
                "crontab: day_of_week= and day_of_month= were both given: Celery runs where both fit, cron where one does; "
                "give one, and look at the other in the task"
            )
        parts = (minute, hour, day_of_month, month_of_year, day_of_week)
        self.expression = " ".join(map(_field, parts))

    def __repr__(self) -> str:
        return f"<crontab {self.expression}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)


def _field(value: Field) -> str:
    if isinstance(value, str | int):
        return str(value).replace(" ", "")
    return ",".join(map(str, sorted(value)))


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
    expression = getattr(rule, "expression", None) or _of_celery(rule)
    if isinstance(expression, str):
        cron = expression
    elif isinstance(rule, int | float | timedelta) and not isinstance(rule, bool):
        every = rule
    else:
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
