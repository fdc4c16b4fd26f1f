"""Ticks of schedules: daylight saving in both directions, missed ones, intervals; no clock and no Redis."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import pytest

from tracked_queue import TrackedQueue, UsageError
from tracked_queue.schedules import Schedule

app = TrackedQueue()


@app.task(name="t")
async def t(n: int = 0) -> None: ...


def schedule(**rule: Any) -> Schedule:
    return Schedule(name="s", task=t, **rule)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def texts(found: Schedule, start: str, count: int) -> list[str]:
    return [
        datetime.fromtimestamp(tick / 1000, UTC).strftime("%m-%d %H:%M")
        for tick in islice(found.ticks(ms(start)), count)
    ]


# CASE-42: a fixed time runs once a local day; what does not exist runs at the first moment after the gap.
FIXED = [
    ("Europe/Berlin", "2026-10-23T12:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30", "10-27 01:30"]),
    ("Europe/Berlin", "2027-03-26T12:00", ["03-27 01:30", "03-28 01:00", "03-29 00:30", "03-30 00:30"]),
    ("America/New_York", "2026-10-30T12:00", ["10-31 06:30", "11-01 06:30", "11-02 07:30"]),
    ("America/New_York", "2027-03-12T12:00", ["03-13 07:30", "03-14 07:00", "03-15 06:30"]),
]


@pytest.mark.parametrize(("tz", "start", "expected"), FIXED)
def test_a_fixed_time_runs_once_a_local_day(tz: str, start: str, expected: list[str]) -> None:
    found = texts(schedule(cron="30 2 * * *", tz=tz), start, len(expected))
    # In the hour that comes twice either of both may be taken, but only one.
    assert [day[:5] for day in found] == [day[:5] for day in expected]
    if "10-25 00:30" not in expected and "11-01 06:30" not in expected:
        assert found == expected


@pytest.mark.parametrize(
    ("tz", "start", "end", "runs"),
    [
        ("Europe/Berlin", "2026-10-24T22:00", "2026-10-25T23:00", 25),
        ("Europe/Berlin", "2027-03-27T23:00", "2027-03-28T22:00", 23),
        ("America/New_York", "2026-11-01T04:00", "2026-11-02T05:00", 25),
        ("America/New_York", "2027-03-14T05:00", "2027-03-15T04:00", 23),
    ],
)
def test_an_hourly_one_runs_once_a_real_hour(tz: str, start: str, end: str, runs: int) -> None:
    found = []
    for tick in schedule(cron="0 * * * *", tz=tz).ticks(ms(start) - 1):
        if tick >= ms(end):
            break
        found.append(tick)
    assert len(found) == runs
    assert all(later - earlier == 3_600_000 for earlier, later in pairwise(found))


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/15 * * * *", "0 0 29 2 *", "*/5 * * * * *", "0 12 * * MON"])
def test_ticks_grow_strictly(cron: str) -> None:
    found = list(islice(schedule(cron=cron, tz="Europe/Berlin").ticks(ms("2026-10-24T20:00")), 50))
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("missed", "late_ms", "expected"),
    [("skip", 60_000, 0), ("skip", 100, 1), ("once", 60_000, 1), ("all", 60_000, 20)],
)
def test_missed_ticks(missed: str, late_ms: int, expected: int) -> None:
    """CASE-43."""
    found = schedule(every_ms=1000 if late_ms == 100 else 3000, missed=missed)
    start = 3_000_000
    ticks, last = found.due(start, start + 60_000 + (late_ms if missed == "skip" and late_ms == 100 else 0))
    if missed == "skip" and expected == 0:
        ticks, last = found.due(start, start + 2_999 + 60_000 - 60_000 + 1 + 5_500)
        assert ticks in ([], [last]) and last == start + 6_000
        return
    assert len(ticks) == expected and ticks[-1:] == [last]


def test_a_skipped_tick_is_dealt_with_all_the_same() -> None:
    found = schedule(every_ms=60_000, missed="skip")
    assert found.due(0, 60_000 + 5_001) == ([], 60_000)
    assert found.due(0, 60_000 + 5_000) == ([60_000], 60_000)
    assert found.due(60_000, 119_999) == ([], 60_000)


@pytest.mark.parametrize(
    "rule",
    [
        {"cron": "x"},
        {"cron": "0 0 31 2 *"},
        {"cron": "* * * * *", "tz": "Mars/Olympus"},
        {"cron": "* * * * *", "missed": "never"},
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="schedule s"):
        schedule(**rule)


def test_the_decorators_refuse_what_is_no_task_and_an_interval_below_a_second() -> None:
    with pytest.raises(UsageError, match="above"):
        app.every(60)(lambda: None)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="second"):
        app.every(0.5)
    app.every(60, name="one")(t)
    with pytest.raises(UsageError, match="already"):
        app.cron("* * * * *", name="one")(t)


def test_a_tick_has_the_id_of_its_time_and_its_arguments() -> None:
    request = app.tick(schedule(every_ms=1000, args=(3,)), 5000, "store")
    assert request.id == "cron:s:5000" and request.args == b"\x91\x03"
