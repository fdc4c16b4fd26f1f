"""
Cron expressions: what cronsim reads, and what people write besides: `@daily` and its like, days from a month's end (`L-3`), and
the weekday next to a date (`15W`).
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import UsageError

NAMED = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
# An expression that has no day for so long never has one: a rule of days repeats within the 28 years of the calendar.
MOST_DAYS = 28 * 366 + 366 * 12

_FROM_END = re.compile(r"L-(\d{1,2})\Z", re.IGNORECASE)
_NEAR = re.compile(r"(\d{1,2}|L)W\Z", re.IGNORECASE)
_PLAIN = re.compile(r"(?:(\d{1,2})(?:-(\d{1,2}))?|\*)(?:/(\d{1,2}))?\Z")

Fits = Callable[[date], bool]


class Cron:
    """
    One expression in a timezone.

    Raises:
        UsageError: It is no expression that ever fires; the text says why.
    """

    def __init__(self, expression: str, tz: str) -> None:
        self._zone = ZoneInfo(tz)
        self._text, self._days = _read(expression)
        try:
            next(self.after(datetime(2026, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise UsageError(str(error)) from error
        except StopIteration:
            raise UsageError("there is no such day") from None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times after a moment, without end."""
        start = moment.astimezone(self._zone)
        if self._days is None:
            yield from CronSim(self._text, start)
            return
        day, seen = start.date(), 0
        while seen < MOST_DAYS:
            if self._days(day):
                # From just before this day on; for the first one, from the moment itself.
                before = datetime.combine(day, datetime.min.time(), self._zone) - timedelta(seconds=1)
                for found in CronSim(self._text, max(before, start)):
                    if found.date() < day:  # a clock that goes back at midnight has the hour before it twice
                        continue
                    if found.date() > day:
                        break
                    seen = 0
                    yield found
            day += timedelta(days=1)
            seen += 1


def _read(expression: str) -> tuple[str, Fits | None]:
    """What cronsim is to read, and which days count if it can't know that."""
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in NAMED:
            raise UsageError(f"{text} is not one of {', '.join(NAMED)}")
        return NAMED[text.lower()], None
    fields = text.split()
    at = {5: 2, 6: 3}.get(len(fields))
    if at is None or not any(map(_is_special, fields[at].split(","))):
        return text, None
    if fields[at + 2] != "*":
        raise UsageError(f"{fields[at]} goes with every day of the week: write * there, or two schedules")
    rules = [_rule(part) for part in fields[at].split(",")]
    fields[at] = "*"
    return " ".join(fields), lambda day: any(rule(day) for rule in rules)


def _is_special(part: str) -> bool:
    return bool(_FROM_END.match(part) or _NEAR.match(part))


def _rule(part: str) -> Fits:
    if found := _FROM_END.match(part):
        return _from_end(_number(part, found[1], 0, 30))
    if found := _NEAR.match(part):
        return _near(0 if found[1] in "Ll" else _number(part, found[1], 1, 31))
    if part in ("L", "l"):
        return _from_end(0)
    found = _PLAIN.match(part)
    if found is None:
        raise UsageError(f"day {part!r} can't be read beside L-3 or 15W")
    first = _number(part, found[1] or "1", 1, 31)
    last = _number(part, found[2], first, 31) if found[2] else 31 if found[3] or not found[1] else first
    step = _number(part, found[3], 1, 31) if found[3] else 1
    return lambda day: day.day in range(first, last + 1, step)


def _number(part: str, text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise UsageError(f"day {part!r}: {number} is not from {least} to {most}")
    return number


def _last_of(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _from_end(days: int) -> Fits:
    """So many days before a month's last one."""
    return lambda day: day.day == _last_of(day) - days


def _near(wanted: int) -> Fits:
    """The weekday next to a date, within its month; 0 for the last day."""

    def fits(day: date) -> bool:
        last = _last_of(day)
        if wanted > last:
            return False
        target = day.replace(day=wanted or last)
        weekday = target.weekday()
        if weekday == 5:  # the Friday before, unless that is in the month before
            target += timedelta(days=-1 if target.day > 1 else 2)
        elif weekday == 6:  # the Monday after, unless that is in the next month
            target += timedelta(days=1 if target.day < last else -2)
        return day == target

    return fits
