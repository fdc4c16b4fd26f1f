"""Cron expressions beyond cronsim's: named ones, days from a month's end, weekdays next to a date."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from tracked_queue import TrackedQueue, UsageError
from tracked_queue.model.cron import NAMED, Cron

START = datetime(2026, 1, 1, tzinfo=UTC)


def times(expression: str, count: int, tz: str = "UTC", start: datetime = START) -> list[datetime]:
    return list(islice(Cron(expression, tz).after(start), count))


def days(expression: str, count: int) -> list[str]:
    return [f"{found:%m-%d}" for found in times(expression, count)]


@pytest.mark.parametrize("name", [*NAMED, "@Daily", " @hourly "])
def test_named_ones(name: str) -> None:
    plain = NAMED[name.strip().lower()]
    assert times(name, 5) == times(plain, 5)


def test_days_from_the_end() -> None:
    assert days("0 0 L-3 * *", 4) == ["01-28", "02-25", "03-28", "04-27"]
    assert days("0 0 L-1,L * *", 4) == ["01-30", "01-31", "02-27", "02-28"]
    assert days("0 0 L-29 * *", 3) == ["01-02", "03-02", "04-01"]  # February has no such day
    assert days("0 0 l-0 2 *", 1) == ["02-28"]
    assert [found.year for found in times("0 0 L-28 2 *", 2)] == [2028, 2032]  # the first of a leap year's February


def test_weekdays_next_to_a_date() -> None:
    # 2026: 15 February is a Sunday, 15 August a Saturday; 1 February a Sunday, 1 August a Saturday; 31 May a Sunday.
    assert days("0 0 15W 2,8 *", 2) == ["02-16", "08-14"]
    assert days("0 0 1W 2,8 *", 2) == ["02-02", "08-03"]
    assert days("0 0 31W * *", 3) == ["01-30", "03-31", "05-29"]
    assert days("0 0 LW * *", 5) == ["01-30", "02-27", "03-31", "04-30", "05-29"]
    assert days("30 6 1-3,15W,L-2 3 *", 5) == ["03-01", "03-02", "03-03", "03-16", "03-29"]
    assert days("0 6 */10,L-1 1 *", 5) == ["01-01", "01-11", "01-21", "01-30", "01-31"]


@given(st.dates(date(2000, 1, 1), date(2090, 1, 1)), st.integers(1, 31))
def test_a_weekday_is_one_and_is_near(day: date, wanted: int) -> None:
    start = datetime(day.year, day.month, 1, tzinfo=UTC) - timedelta(seconds=1)
    found = next(Cron(f"0 0 {wanted}W * *", "UTC").after(start))
    assert found.weekday() < 5 and abs(found.day - wanted) <= 2
    last = calendar.monthrange(found.year, found.month)[1]
    target = date(found.year, found.month, wanted)
    nearer = [
        other for other in (target + timedelta(days=by) for by in (-1, 0, 1))
        if other.month == target.month and other.weekday() < 5
    ]  # fmt: skip
    assert wanted <= last and (found.date() in nearer if nearer else True)


@given(
    st.sampled_from(["0 3 {} * *", "*/7 9-17 {} 1-6 *", "15 30 12 {} * *"]),
    st.sampled_from(["L-3", "15W", "LW", "1,L-1", "1-9/4,20W"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Asia/Kathmandu"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2032, 1, 1)),
)
def test_the_times_are_those_of_every_day_on_the_days_that_count(shape: str, field: str, tz: str, at: datetime) -> None:
    start = at.replace(tzinfo=UTC)
    found = list(islice(Cron(shape.format(field), tz).after(start), 8))
    every = CronSim(shape.format("*"), start.astimezone(ZoneInfo(tz)))
    fits = {moment.date() for moment in found}
    wanted = []
    for moment in every:
        if moment.date() in fits:
            wanted.append(moment)
        if moment > found[-1]:
            break
    # Each day that counts is whole, from the start on; the last one may be cut by the number asked for.
    assert found == wanted[: len(found)] and all(moment > start for moment in found)


def test_a_fixed_time_runs_once_on_the_days_when_the_clocks_change() -> None:
    spring = times("30 2 29W 3 *", 1, "Europe/Berlin", datetime(2027, 3, 1, tzinfo=UTC))
    assert len(spring) == 1
    autumn = [
        found
        for found in times("30 2 L-0 10 *", 2, "Europe/Berlin", datetime(2027, 10, 1, tzinfo=UTC))
        if found.year == 2027
    ]
    assert len(autumn) == 1  # 31 October 2027: 02:30 comes twice


@pytest.mark.parametrize(
    ("tz", "month", "day"), [("America/Santiago", 4, 5), ("Asia/Beirut", 10, 25), ("Africa/Cairo", 10, 30)]
)
def test_a_clock_that_goes_back_at_midnight_moves_no_tick_to_the_day_before(tz: str, month: int, day: int) -> None:
    found = times(f"0 * {day - 1},{day},L-30 {month} *", 60, tz, datetime(2026, month, 1, tzinfo=UTC))
    moments = [moment.astimezone(UTC) for moment in found]
    assert moments == sorted(set(moments)) and {moment.day for moment in found[:40]} <= {1, day - 1, day}


def test_it_starts_in_the_middle_of_a_day() -> None:
    start = datetime(2026, 1, 28, 12, tzinfo=UTC)
    assert times("0 */6 L-3 * *", 2, start=start) == [
        datetime(2026, 1, 28, 18, tzinfo=UTC), datetime(2026, 2, 25, 0, tzinfo=UTC),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("@dayly", "@daily"), ("@reboot", "@daily"), ("0 0 L-3 * 1", "every day of the week"), ("0 0 32W * *", "not from 1 to 31"),
        ("0 0 L-31 * *", "not from 0 to 30"), ("0 0 30W 2 *", "no such day"), ("0 0 L-3,x * *", "can't be read"),
        ("0 0 L-3,9-5 * *", "not from 9"), ("0 0 L-0,*/0 * *", "not from 1"), ("0 0 31 2 *", ""), ("nonsense", ""), ("", ""),
        ("0 0 L-3 * * * * *", ""), ("61 0 L-3 * *", ""),
    ],
)  # fmt: skip
def test_what_never_fires_is_refused_where_it_is_written(expression: str, says: str) -> None:
    app = TrackedQueue()

    @app.task()
    async def work() -> None: ...

    with pytest.raises(UsageError, match="cron expression that ever fires") as raised:
        app.cron(expression)(work)
    assert says in str(raised.value)
    app.cron("@daily")(work)
