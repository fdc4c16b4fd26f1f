"""Ticks of schedules: daylight saving in both directions, missed ones, intervals; no clock and no Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import pytest

from tracked_queue import TrackedQueue, UsageError
from tracked_queue.app import producer_of
from tracked_queue.model.schedules import Schedule

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
    ("America/New_York", "2026-10-30T12:00", ["10-31 06:30", "11-01 07:30", "11-02 07:30"]),
    ("America/New_York", "2027-03-12T12:00", ["03-13 07:30", "03-14 07:00", "03-15 06:30"]),
]


@pytest.mark.parametrize(("tz", "start", "expected"), FIXED)
def test_a_fixed_time_runs_once_a_local_day(tz: str, start: str, expected: list[str]) -> None:
    found = texts(schedule(cron="30 2 * * *", tz=tz), start, len(expected))
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


@pytest.mark.parametrize(("missed", "runs"), [("skip", 0), ("once", 1), ("all", 20)])
def test_missed_ticks(missed: str, runs: int) -> None:
    """CASE-43: twenty ticks while nobody ran; the last one is 5.5 s ago."""
    start, end = 6_000_000, 6_000_000 + 20 * 6_000
    ticks, last = schedule(every_ms=6_000, missed=missed).due(start, end + 5_500)
    assert last == end and len(ticks) == runs
    assert ticks == list(range(start + 6_000, end + 1, 6_000))[20 - runs :]


@pytest.mark.parametrize("rule", [{"every_ms": 1000}, {"cron": "* * * * * *"}, {"cron": "0 0 29 2 *"}])
def test_the_last_tick_after_years_is_found_without_looking_at_each(rule: dict[str, Any]) -> None:
    found = schedule(**rule)
    seen = 0

    class Counting(Schedule):
        def ticks(self, after_ms: int) -> Iterator[int]:
            nonlocal seen
            for tick in Schedule.ticks(self, after_ms):
                seen += 1
                yield tick

    counting = Counting(name="s", task=t, cron=found.cron, every_ms=found.every_ms)
    now = ms("2026-11-25T12:00")
    ticks, last = counting.due(ms("2015-01-01T00:00"), now)
    assert ticks == [last] and seen < 1000
    assert last == (ms("2024-02-29T00:00") if found.cron == "0 0 29 2 *" else now)


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
    request = producer_of(app).tick(schedule(every_ms=1000, args=(3,)), 5000, "store")
    assert request.id == "cron:s:5000" and request.args == b"\x91\x03"
