"""Counters of a process, and how they reach the supervisor."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from tracked_queue.metrics.worker import WorkerCollector
from tracked_queue.worker.meter import MOST_BYTES, MOST_ERRORS, Meter, Tally, Teller


def test_what_finds_no_room_in_the_pipe_comes_later_and_once() -> None:
    read, write = os.pipe()
    meter, tally, teller = Meter(), Tally(), Teller(write)
    for n in range(3000):
        meter.add("runs", f"task-{n}" * 20, "q", "succeeded", by=n)
    rest, rounds = b"", 0
    while True:
        teller.tell(meter)
        data = os.read(read, 65536)
        *lines, rest = (rest + data).split(b"\n")
        assert all(len(line) <= MOST_BYTES + 100 for line in lines)
        for line in lines:
            tally.hear(1, line)
        rounds += 1
        if sum(tally.counts.values()) >= sum(range(3000)):
            break
        assert rounds < 1000
    assert rounds > 1, "it had to wait for room"
    teller.tell(meter)
    for line in os.read(read, 1 << 20).splitlines():
        tally.hear(1, line)
    assert {key: count for key, count in tally.counts.items() if key[0] == "runs"} == {
        ("runs", f"task-{n}" * 20, "q", "succeeded"): n for n in range(1, 3000)
    }
    os.close(read)
    teller.tell(meter)  # nobody reads any more
    os.close(write)


def test_counters_of_an_ended_source_stay_and_its_gauges_go() -> None:
    meter = Meter()
    end = meter.collect(lambda: ({("runs", "t"): 3.0}, {"running": 2.0}))
    assert meter.read()[0]["runs", "t"] == 3 and meter.read()[1]["running"] == 2
    end()
    assert meter.read()[0]["runs", "t"] == 3 and "running" not in meter.read()[1]


def test_a_dead_process_counts_on_and_its_gauges_go() -> None:
    tally = Tally()
    for pid in (1, 2):
        tally.hear(pid, b'{"counts": [[["runs", "t", "q", "succeeded"], 2]]}')
        tally.hear(pid, b'{"gauges": {"running": 3, "lease_margin_seconds": %d}}' % (4 + pid))
    assert tally.read()[1] == {"running": 6, "lease_margin_seconds": 5}
    tally.forget(1)
    assert tally.read()[1] == {"running": 3}, "the margin is that since the last reading"
    assert tally.read()[0]["runs", "t", "q", "succeeded"] == 4


def test_classes_of_errors_are_bounded() -> None:
    meter = Meter()
    for n in range(MOST_ERRORS + 10):
        meter.failed("t", type(f"Error{n}", (Exception,), {})())
    names = [key[2] for key in meter.counts]
    assert len(names) == MOST_ERRORS + 1 and meter.counts["errors", "t", "_other"] == 10


@given(
    st.binary(max_size=200)
    | st.sampled_from([b"[]", b'{"counts": 1}', b'{"counts": [[1, "x"]]}', b'{"gauges": {"a": []}}', b"3"])
)
def test_a_line_that_is_none_is_left_out(line: bytes) -> None:
    tally = Tally()
    tally.hear(1, line)
    tally.read()


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["runs", "errors", "run_seconds", "wait_seconds", "fenced"]),
            st.text(max_size=5),
            st.text(max_size=3),
        ),
        st.floats(0, 9),
        max_size=20,
    )
)
def test_whatever_was_counted_can_be_shown(counts: dict[tuple[str, ...], float]) -> None:
    for _family in WorkerCollector(lambda: (counts, {})).collect():
        pass


def test_the_families_of_one_process_have_no_gaps() -> None:
    found = {family.name: family for family in WorkerCollector(Meter().read).collect()}
    assert found["tracked_queue_fenced"].samples and found["tracked_queue_loop_lag_seconds"].samples
    assert found["tracked_queue_running"].samples[0].value == 0
    ends = {sample.labels["why"]: sample.value for sample in found["tracked_queue_process_ends"].samples}
    assert ends == dict.fromkeys(("stopped", "recycled", "died", "killed", "given_up"), 0)
