"""The checker of chaos runs says so when a history breaks the promise; each test is one that does, beside a clean one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tracked_queue.chaos.checker import History, judge
from tracked_queue.chaos.ledger import Event

S = 10**9


def event(at: float, kind: str, id: str = "a", **facts: Any) -> Event:
    return Event(at=round(at * S), kind=kind, id=id, **facts)


def run(
    at: float, id: str = "a", fence: int = 1, seconds: float = 1.0, pid: int = 1, word: str = "returned"
) -> list[Event]:
    return [
        event(at, "start", id, fence=fence, pid=pid, lease=f"l{pid}"),
        event(at + seconds, "end", id, fence=fence, pid=pid, word=word),
    ]


def settled(at: float, id: str = "a", fence: int = 1, word: str = "succeeded", verdict: str = "ok") -> Event:
    return event(at, "settled", id, fence=fence, word=word, verdict=verdict)


def stored(at: float = 0.0, id: str = "a", word: str = "created", key: str = "") -> Event:
    return event(at, "stored", id, word=word, key=key)


def fault(at: float, kind: str, pid: int = 0) -> Event:
    return Event(at=round(at * S), kind="fault", word=kind, pid=pid)


CLEAN = [stored(), *run(1), settled(2.1)]
DONE = {"a": {"state": "succeeded"}}


def problems(events: list[Event], records: dict[str, dict[str, str]] | None = None, **more: Any) -> list[str]:
    return judge(History(events=sorted(events, key=lambda item: item.at), records=records or DONE, **more)).problems


def test_a_clean_history_has_none() -> None:
    found = judge(History(events=CLEAN, records=DONE, keys=["queues", "limits", "job:a"]))
    assert not found.problems and not found.lost and (found.jobs, found.runs) == (1, 1)


@pytest.mark.parametrize("records", [{}, {"a": {"state": "queued"}}, {"a": {"state": "active"}}])
def test_a_lost_job(records: dict[str, dict[str, str]]) -> None:
    found = judge(History(events=[stored()], records=records or {"b": {}}))
    assert found.lost == ["a"] and "was stored and is" in found.problems[0]


def test_a_healthy_job_that_is_dead_for_its_process() -> None:
    reason = "its process died 3 times while it was the only job there"
    dead = {"state": "dead", "reason": reason}
    assert "did not kill" in problems(CLEAN[:1], {"a": {**dead, "task": "short"}})[0]
    assert not problems(CLEAN[:1], {"a": {**dead, "task": "poison"}})


def test_a_job_that_waits_though_no_fault_comes_any_more() -> None:
    late = [stored(), event(1, "calm", id=""), *run(30), settled(31.1)]
    assert "waited 29.0 s" in problems(late)[0]
    assert not problems([stored(), event(1, "calm", id=""), *run(10), settled(11.1)])
    assert not problems(late, {"a": {"state": "succeeded", "task": "poison"}})
    deaths = [fault(20 + n, "poison", 7) for n in range(3)]
    assert problems([*late, *deaths]), "what is above suspicion waits for nobody"
    assert not problems([*late, *deaths], {"a": {"state": "succeeded", "deaths": "1"}})
    assert problems([*late, *deaths[1:]], {"a": {"state": "succeeded", "deaths": "1"}})


def test_an_enqueue_that_did_not_return_or_was_held_is_no_loss() -> None:
    assert not problems([event(0, "asked"), event(1, "refused"), stored(2, "b", "held")], {"x": {}})


def test_a_double_settle() -> None:
    twice = [*CLEAN, *run(3, fence=2), settled(4, fence=2)]
    assert "2 settled ends" in " ".join(problems(twice, {"a": {"state": "succeeded", "recoveries": "1"}}))
    assert not problems([*twice, fault(2.5, "failover")], {"a": {"state": "succeeded"}}), (
        "the store had forgotten the first"
    )


def test_an_outcome_that_is_not_what_the_record_says() -> None:
    assert "settled as succeeded and is failed" in problems(CLEAN, {"a": {"state": "failed"}})[0]


def test_an_unexplained_run() -> None:
    events = [stored(), *run(1, fence=1), *run(3, fence=2), settled(4.1, fence=2)]
    assert "1 runs without a recorded cause" in problems(events)[0]
    for cause in ("recoveries", "interruptions", "attempts", "snoozes"):
        assert not problems(events, {"a": {"state": "succeeded", cause: "1"}})
    assert not problems(events, recovered={"a": 1})
    assert not problems([*events, settled(2.1, word="retry")])
    assert not problems([*events, settled(2.1, word="retry", verdict="again")]), "its first answer was lost"
    assert problems([*events, settled(2.1, word="retry", verdict="fenced")])
    found = judge(History(events=sorted([*events, fault(2, "failover")], key=lambda item: item.at), records=DONE))
    assert not found.problems and found.again == {"rollback": 1}


def test_one_delivery_that_ran_twice() -> None:
    events = [*CLEAN, *run(3, fence=1)]
    assert "delivery 1 ran twice" in problems(events, {"a": {"state": "succeeded", "recoveries": "1"}})[0]


def test_two_places_and_keys_left_behind() -> None:
    assert "several places" in problems(CLEAN, places={"a": ["queue:q", "processing:l"]})[0]
    assert "several places" in problems(CLEAN, places={"a": ["queue:q"]})[0], "it has ended"
    assert "key left behind: permits:x" in problems(CLEAN, keys=["permits:x"])[0]
    assert "key left behind: unique:k" in problems(CLEAN, keys=["unique:k"])[0]
    assert "key left behind: processing:l1" in problems(CLEAN, keys=["processing:l1"])[0]
    assert not problems(CLEAN, keys=["instances", "instance:l1"]), "it could not deregister in its time, and runs out"
    assert len(problems(CLEAN, keys=["instances", "instance:l1", "processing:l1"])) == 2


def test_a_limit_that_was_exceeded_by_live_leases() -> None:
    limited = {"state": "succeeded", "limits": '[["one", "concurrency", 1, 0, 3]]'}
    records = {"a": limited, "b": limited}
    both = [stored(), stored(id="b"), *run(1, "a"), *run(1.5, "b", pid=2), settled(3), settled(3, "b")]
    assert problems(both, records) == ["limit one: 2 ran at once, 1 may"]
    assert not problems([*both, fault(1.2, "kill", pid=1)], records), "the first one's process was dead by then"
    one_after_the_other = [stored(), stored(id="b"), *run(1, "a"), *run(2, "b", pid=2), settled(4), settled(4, "b")]
    assert not problems(one_after_the_other, records)


def test_a_unique_key_with_two_jobs() -> None:
    records = {"a": {"state": "succeeded"}, "b": {"state": "succeeded"}}
    ends = [settled(9), settled(9, "b")]
    second_in_the_first = [stored(0, key="k"), *run(1), stored(1.5, "b", key="k"), *run(3, "b"), *ends]
    assert "was created while a was at work" in problems(second_in_the_first, records)[0]
    assert not problems([stored(0, key="k"), *run(1), stored(2.5, "b", key="k"), *run(3, "b"), *ends], records)


def test_a_frozen_run_that_ends_late_holds_no_key() -> None:
    records = {"a": {"state": "succeeded", "recoveries": "1"}, "b": {"state": "succeeded"}}
    events = [
        stored(0, key="k"), *run(1, fence=1, seconds=8), *run(3, fence=2), settled(4.1, fence=2),
        stored(5, "b", key="k"), *run(5.5, "b"), settled(7, "b"), fault(1.5, "freeze", pid=1),
    ]  # fmt: skip
    assert not problems(events, records)


def test_times_of_recovery() -> None:
    first = run(1, fence=1, pid=1)[:1]
    events = [stored(), *first, fault(2, "kill", pid=1), *run(2.5, fence=2, pid=2), settled(4, fence=2)]
    found = judge(History(events=events, records={"a": {"state": "succeeded", "recoveries": "1"}}))
    assert not found.problems and found.recovery_s == [0.5]


def test_a_call_beyond_its_limit_and_a_result_of_another_job() -> None:
    slow = event(3, "refused", word="EnqueueUnavailableError", seconds=14.0, limit=10.0)
    assert "its limit is 10 s" in problems([*CLEAN, slow])[0]
    assert not problems([*CLEAN, event(3, "refused", seconds=11.0, limit=10.0)])
    assert not problems([*CLEAN, event(3, "answer", word="right", seconds=1.0, limit=8.0)])
    assert "result of another job" in problems([*CLEAN, event(3, "answer", word="wrong", seconds=1.0, limit=8.0)])[0]
    assert "did not end" in problems([*CLEAN, event(3, "stuck", "", word="worker-3.log")])[0]


def limited(count: int, *limit: Any) -> dict[str, dict[str, str]]:
    record = {"state": "succeeded", "limits": json.dumps([["name", *limit, 4]])}
    return {f"j{n}": record for n in range(count)}


@pytest.mark.parametrize("word", ["failover", "late_failover"])
def test_what_a_lost_server_gave_out_may_begin_after_another_took_over(word: str) -> None:
    events = [
        stored(0, "a"),
        fault(1, word),
        *run(1.1, seconds=0.1),
        *run(2, fence=2, seconds=0.1),
        settled(2.2, fence=2),
    ]
    assert not problems(events)
    late = [stored(0, "a"), fault(1, word), *run(4, seconds=0.1), *run(5, fence=2, seconds=0.1), settled(5.2, fence=2)]
    assert "without a recorded cause" in problems(late)[0]


def test_what_a_lost_server_gave_out_holds_no_permit_of_the_next() -> None:
    at_once = [event for n in range(2) for event in (stored(0, f"j{n}"), *run(1.1, f"j{n}"), settled(2.2, f"j{n}"))]
    assert "limit name: 2 ran" in problems(at_once, limited(2, "concurrency", 1, 0))[0]
    assert not problems([fault(1, "late_failover"), *at_once], limited(2, "concurrency", 1, 0))


@pytest.mark.parametrize(("per_ms", "faults", "is_well"), [(1000, 0, False), (100, 0, True), (1000, 5, True)])
def test_more_of_a_rate_began_than_it_allows(per_ms: int, faults: int, is_well: bool) -> None:
    """Ten in half a second at two in `per_ms`; a clock that went back gives out again."""
    jobs = [f"j{n}" for n in range(10)]
    events = [event for n, id in enumerate(jobs) for event in (stored(0, id), *run(1 + n / 20, id, seconds=0.01))]
    events += [settled(3, id) for id in jobs] + [fault(5 + n, "clock") for n in range(faults)]
    found = problems(events, limited(10, "rate", 2, per_ms))
    assert not found if is_well else "rate name: 10 began" in found[0]


def test_a_run_that_began_between_the_note_of_a_kill_and_the_kill_holds_no_permit() -> None:
    begun = [stored(0, "j0"), fault(1, "kill", pid=5), event(1.1, "start", "j0", fence=1, pid=5, lease="l5")]
    again = [*run(9, "j0", fence=2), settled(10.2, "j0", fence=2)]
    other = [stored(0, "j1"), *run(3, "j1"), settled(4.2, "j1")]
    assert not problems([*begun, *again, *other], limited(2, "concurrency", 1, 0), recovered={"j0": 1})


@pytest.mark.parametrize("pid", [1, 2])
@pytest.mark.parametrize(("word", "is_well"), [("late_failover", True), ("clock", False)])
def test_a_number_is_given_out_twice_only_by_a_server_that_lost_writes(pid: int, word: str, is_well: bool) -> None:
    again = [*run(5, pid=pid), settled(6.1)]
    found = problems([stored(), *run(1), fault(3, word), *again], {"a": {"state": "succeeded", "recoveries": "1"}})
    assert not found if is_well else found == ["a: delivery 1 ran twice"]
