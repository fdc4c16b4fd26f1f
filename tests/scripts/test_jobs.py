"""lua/move.lua, lua/reschedule.lua, lua/delete.lua: what people do with jobs that do not run."""

from __future__ import annotations

import pytest

from tests.harness import START_MS, Scripts
from tests.scripts.common import after, drain, ids, limited, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import DeleteWord, RescheduleWord


def move(q: Scripts, *of: str, to: str = "other") -> list[str]:
    return [word.value for word in q.store.run(t.move(of, to, "ann"))]


def test_a_queued_job_goes_to_the_end_of_another_queue(q: Scripts) -> None:
    q.enqueue("a", "b", "c")
    q.enqueue("x", queue="other")
    q.pop_marker("other")
    assert move(q, "b", "b", "none") == ["ok", "same", "gone"]
    assert q.listed("queue", "q") == ["c", "a"] and q.listed("queue", "other") == ["b", "x"]
    assert q.marker("other") and q.job("b")["queue"] == "other"
    assert q.history("b") == [("moved", "", "", "ann, from q")]
    before = q.snapshot()
    assert move(q, "b") == ["same"]
    assert q.snapshot() == before
    q.register("w")
    assert ids(q.take("w", queues=("other",))) == ["x", "b"]


def test_jobs_that_wait_elsewhere_come_to_the_other_queue_in_time(q: Scripts) -> None:
    q.enqueue("later", delay_ms=5000)
    q.enqueue("first")
    q.enqueue("second", extras=after("first"))
    q.register("w")
    (first,) = q.take("w")
    assert move(q, "later", "second", "first") == ["ok", "ok", "started"]
    q.settle("w", first, "dead", 1)
    assert move(q, "first") == ["ok"]
    q.store.run(t.requeue(["first"]))
    assert q.listed("queue", "other") == ["first"]
    (again,) = q.take("w", queues=("other",))
    q.settle("w", again, "succeeded")
    assert move(q, "first") == ["ended"]
    q.pass_time(6)
    assert sorted(ids(q.take("w", queues=("other",)))) == ["later", "second"]


def test_jobs_with_places_of_their_own_stay(q: Scripts) -> None:
    q.enqueue("suspect")
    q.register("w")
    q.take("w")
    q.release("w")
    q.recover("w")
    assert q.suspects() == ["suspect"]
    q.enqueue("limited", extras=limited("l", 1))
    q.enqueue("later", extras=limited("l", 1), delay_ms=9000)
    before = q.snapshot()
    assert move(q, "limited", "later", "suspect") == ["limited", "limited", "suspect"]
    assert q.snapshot() == before


def test_a_job_deep_in_its_queue_is_not_searched_for(q: Scripts) -> None:
    for first in range(0, 10_100, 100):
        q.enqueue(*(f"j{first + n}" for n in range(100)))
    assert move(q, "j5050", "j4999", "j5100") == ["deep", "ok", "ok"]


def test_what_is_rescheduled_is_due_then(q: Scripts) -> None:
    q.enqueue("a", "b", delay_ms=3_600_000)
    q.enqueue("now")
    q.register("w")
    words = q.store.run(t.reschedule(["a", "now", "none"], "ann", delay_ms=0))
    assert words == [RescheduleWord.OK, RescheduleWord.NOT_SCHEDULED, RescheduleWord.GONE]
    assert sorted(ids(q.take("w"))) == ["a", "now"] and q.history("a") == [("rescheduled", "", "", "ann")]
    assert q.store.run(t.reschedule(["b"], due_ms=START_MS + 60_000)) == [RescheduleWord.OK]
    q.pass_time(59)
    q.register("v")
    assert ids(q.take("v")) == []
    q.pass_time(2)
    assert ids(q.take("v")) == ["b"]


def test_an_earlier_due_time_wakes_whoever_waits_for_the_first_one(q: Scripts) -> None:
    q.enqueue("a", delay_ms=3_600_000)
    q.register("w")
    q.fetch("w")
    q.timer_marker()
    q.store.run(t.reschedule(["a"], delay_ms=10))
    assert q.timer_marker()


@pytest.mark.parametrize("kind", ["retry", "snoozed"])
def test_the_record_says_what_a_scheduled_job_waits_for(q: Scripts, kind: str) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, kind, 60_000)
    assert q.job("a")["scheduled_for"] == kind
    assert q.store.run(t.reschedule(["a"], delay_ms=0)) == [RescheduleWord.OK]
    assert ids(q.take("w")) == ["a"]


def test_a_deleted_job_leaves_its_id_for_as_long_as_an_enqueue_may_come_again(q: Scripts) -> None:
    q.enqueue("a", kwargs=b"\x80")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "failed", 3_600_000, payload=b"\x93\xa1a\xa1b\xa1c", reason="secret")
    assert q.ttl("a") > 120_000
    assert q.store.run(t.delete(["a", "none"], 120.0)) == [DeleteWord.OK, DeleteWord.GONE]
    assert 0 < q.ttl("a") <= 120_000
    left = q.job("a")
    assert left["state"] == "failed" and not {"args", "kwargs", "reason", "error", "events", "event:0"} & set(left)
    assert q.enqueue("a") == [False], "an enqueue that is sent again adds nothing"
    assert q.store.run(t.delete(["a"], 120.0)) == [DeleteWord.OK]


def test_what_may_still_run_or_is_wanted_is_not_deleted(q: Scripts) -> None:
    q.enqueue("queued", "first", "dies")
    q.enqueue("second", extras=after("first", wants=1))
    q.enqueue("back", extras=after("dies"))
    q.register("w")
    jobs = {job.id.decode(): job for job in q.take("w")}
    q.settle("w", jobs["first"], "succeeded", 60_000, payload=b"\x01")
    q.settle("w", jobs["dies"], "dead", 1)
    assert q.state("queued") == "active"
    before = q.snapshot()
    words = q.store.run(t.delete(["queued", "first", "dies"], 120.0))
    assert words == [DeleteWord.NOT_ENDED, DeleteWord.WANTED, DeleteWord.DEAD] and q.snapshot() == before
    second = next(job for job in drain(q) if job.id == b"second")
    assert q.state("back") == "failed"
    assert q.store.run(t.delete(["back"], 120.0)) == [DeleteWord.NOT_ENDED], "a requeue of the dead job brings it back"
    assert q.store.run(t.inputs(b"second", 0)) == ([b"\x01"], False)
    q.settle("w", second, "succeeded")
    drain(q)
    assert q.store.run(t.delete(["first"], 120.0)) == [DeleteWord.OK]


def test_the_traceparent_of_a_run_is_handed_to_the_next_one(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    assert job.trace == b""
    mark = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    outcome = t.Outcome(job.id, job.delivery, t.OutcomeKind.RETRY, 0, b"", "no", ran_ms=7, trace=mark)
    q.store.run(t.settle("w", [outcome], 120.0))
    (again,) = q.take("w")
    assert again.trace == mark.encode() and again.attempts == 1


def test_a_foreign_key_in_the_place_of_the_queue_moves_nothing(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.redis.set(q.keys.named("queue", "other"), "x")
    before = q.snapshot()
    assert move(q, "a", "b") == ["foreign", "foreign"] and q.snapshot() == before


def test_a_moved_job_is_bound_to_the_limits_of_its_new_queue(q: Scripts) -> None:
    q.enqueue("a", extras=unique("k"))
    q.redis.hset(q.keys.record_of("a"), "bound", "1")
    assert move(q, "a") == ["ok"]
    q.register("w")
    (job,) = q.take("w", queues=("other",))
    assert not job.bound
    bounds = limited("l", 1, lane="other\nl")
    outcome = t.Outcome(job.id, job.delivery, t.OutcomeKind.BOUND, 0, bounds, "")
    assert q.store.run(t.settle("w", [outcome], 120.0)) == [t.Verdict.OK] and q.state("a") == "queued"


@pytest.mark.parametrize(
    ("due", "expected_s"), [({"delay_ms": 60_000}, 60), ({"due_ms": START_MS + 36_000_000}, 36_000)]
)
def test_a_delay_is_counted_anew_after_a_clock_that_was_ahead_and_a_named_time_stays(
    q: Scripts, due: dict[str, int], expected_s: int
) -> None:
    q.enqueue("a", delay_ms=5000)
    q.pass_time(3600)  # the clock is ahead
    q.register("w")
    q.store.run(t.reschedule(["a"], **due))  # type: ignore[arg-type]
    q.pass_time(-3600)
    q.register("v")
    for _ in range(5):
        q.beat("v")
        q.store.run(t.tend())
    assert round((int(q.job("a")["due_ms"]) - START_MS) / 1000) == expected_s


def test_a_deleted_result_is_gone_and_no_empty_success(q: Scripts) -> None:
    q.enqueue("a", extras=unique("ann@example"))
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "succeeded", 3_600_000, payload=b"\x2a")
    ended = q.store.run(t.await_end("a"))
    assert isinstance(ended, t.Ended) and ended.result == b"\x2a"
    q.store.run(t.delete(["a"], 120.0))
    assert q.store.run(t.await_end("a")) is False
    assert "ann@example" not in repr(q.job("a"))
