"""worker/times.py, protocol/times.py and reports/times.py: how long jobs wait and run, from counters to quantiles."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from tracked_queue.protocol.times import MOST_QUEUES, MOST_TASKS, OTHER, RUN_EDGES, WAIT_EDGES, Field
from tracked_queue.reports.times import Histogram
from tracked_queue.worker.times import MOST_FIELDS, WAIT_EDGES_MS, Times


def waited(times: Times, queue: bytes, ms: float) -> None:
    times.waits_of(queue)[bisect_left(WAIT_EDGES_MS, ms)] += 1


def test_a_portion_stays_until_it_is_answered() -> None:
    times = Times()
    waited(times, b"q", 70)
    first = times.portion()
    assert first == [("wait 1 q", 1)] and times.number == 1
    waited(times, b"q", 70)
    assert times.portion() == first and times.number == 1, "the same again, under the same number"
    times.answered()
    assert times.portion() == [("wait 1 q", 1)] and times.number == 2
    times.answered()
    assert times.portion() == [] and times.number == 2


def test_a_portion_is_bounded_and_nothing_is_left_out() -> None:
    times = Times()
    for n in range(MOST_FIELDS * 2 + 5):
        waited(times, b"%d" % n, 1)
    found = []
    while portion := times.portion():
        assert len(portion) <= MOST_FIELDS
        found += portion
        times.answered()
    assert len(found) == MOST_FIELDS * 2 + 5 and all(count == 1 for _, count in found)


def test_names_are_bounded() -> None:
    times = Times()
    for n in range(MOST_QUEUES + 50):
        waited(times, b"%d" % n, 1)
    for n in range(MOST_TASKS + 50):
        times.runs_of(f"{n}")[0] += 1
    counted = {}
    while portion := times.portion():
        counted.update(portion)
        times.answered()
    assert counted[f"wait 0 {OTHER}"] == 50 and counted[f"run 0 {OTHER}"] == 50
    assert len(counted) == MOST_QUEUES + MOST_TASKS + 2


def test_every_wait_has_its_bucket() -> None:
    for at, edge in enumerate(WAIT_EDGES):
        times = Times()
        waited(times, b"q", edge * 1000)
        waited(times, b"q", edge * 1000 + 1)
        assert times.portion() == [(f"wait {at} q", 1), (f"wait {at + 1} q", 1)], "up to and with its edge"
    assert [*RUN_EDGES] == sorted(RUN_EDGES) and [*WAIT_EDGES] == sorted(WAIT_EDGES)


@given(st.sampled_from(["run", "wait"]), st.integers(0, 15), st.text())
def test_a_field_is_read_as_it_was_written(kind: str, bucket: int, name: str) -> None:
    field = Field(kind, bucket, name)
    assert Field.read(field.packed()) == field


@given(st.text())
def test_foreign_fields_are_left_out(text: str) -> None:
    found = Field.read(text)
    assert found is None or (Field.read(found.packed()) == found and found.name == text.split(" ", 2)[2])


def test_quantiles_lie_within_their_bucket() -> None:
    counts = [0] * (len(RUN_EDGES) + 1)
    assert Histogram(RUN_EDGES, tuple(counts)).quantile(0.5) is None
    counts[2], counts[5] = 90, 10
    found = Histogram(RUN_EDGES, tuple(counts))
    half, most = found.quantile(0.5), found.quantile(0.95)
    assert half is not None and RUN_EDGES[1] < half <= RUN_EDGES[2]
    assert most is not None and RUN_EDGES[4] < most <= RUN_EDGES[5]
    counts[-1] = 1000
    assert Histogram(RUN_EDGES, tuple(counts)).quantile(0.99) == RUN_EDGES[-1]


@given(st.lists(st.integers(0, 50), min_size=len(RUN_EDGES) + 1, max_size=len(RUN_EDGES) + 1), st.floats(0.01, 0.99))
def test_quantiles_grow(counts: list[int], part: float) -> None:
    found = Histogram(RUN_EDGES, tuple(counts))
    lower, upper = found.quantile(part / 2), found.quantile(part)
    assert (lower is None) == (upper is None) == (found.total == 0)
    assert lower is None or upper is None or lower <= upper
