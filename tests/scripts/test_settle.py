"""lua/settle.lua: outcomes are recorded, each once."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.harness import INTERVAL, Scripts
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Verdict


def test_settle_succeeded_then_again(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    assert q.settle("w", job, "succeeded", 60_000, b"\x01") is Verdict.OK
    record = q.job("a")
    assert record["state"] == "succeeded" and record["result"] == "\x01" and q.listed("processing", "w") == []
    before = q.snapshot()
    assert q.settle("w", job, "succeeded", 60_000, b"\x02") is Verdict.AGAIN
    assert q.snapshot() == before, "the second run writes nothing"


@pytest.mark.parametrize("keep_ms, least_s", [(0, 120), (60_000, 120), (3_600_000, 3600)])
def test_an_ended_job_stays_known_for_the_resend_window(q: Scripts, keep_ms: int, least_s: int) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "succeeded", keep_ms)
    assert least_s * 1000 - 5000 < q.ttl("a") <= least_s * 1000


def test_settle_accepts_each_id_once_wherever_it_stands(q: Scripts) -> None:
    q.enqueue(*(f"j{n}" for n in range(200)))
    q.register("w")
    jobs = q.take("w", start=200)
    oldest, newest, lost = jobs[0], jobs[199], jobs[150]
    q.redis.delete(q.keys.named("job", lost.id.decode()))
    told = [oldest, lost, newest, oldest, newest, lost]
    outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 120_000, b"", "") for job in told]
    assert q.store.run(t.settle("w", outcomes, 120, 120)) == [
        Verdict.OK, Verdict.GONE, Verdict.OK, Verdict.FENCED, Verdict.FENCED, Verdict.GONE,
    ]  # fmt: skip
    assert q.store.run(t.settle("w", outcomes, 120, 120))[:3] == [Verdict.AGAIN, Verdict.GONE, Verdict.AGAIN]
    assert len(q.listed("processing", "w")) == 197
    (stats,) = q.redis.scan_iter(q.keys.named("stats", "*"))
    assert sum(map(int, q.redis.hvals(stats))) == 202


def test_settle_by_the_wrong_instance_is_fenced(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.register("other")
    (job,) = q.take("w")
    before = q.job("a")
    for _ in range(2):
        assert q.settle("other", job, "succeeded") is Verdict.FENCED
        assert q.history("a") == [("late", job.delivery.decode(), "other", "succeeded")], "noted once"
    assert before.items() <= q.job("a").items() and q.listed("processing", "w") == ["a"]


def test_settle_with_another_delivery_number_is_fenced(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (first,) = q.take("w")
    q.settle("w", first, "interrupted")
    (second,) = q.take("w")
    before = q.job("a")
    later = structs.replace(first, delivery=str(int(second.delivery) + 1).encode())
    assert q.settle("w", later, "succeeded") is Verdict.FENCED
    assert q.settle("w", first, "interrupted") is Verdict.FENCED, "a resend, whose end is in the history"
    assert [kind for kind, *_ in q.history("a")] == ["interrupted", "late"]
    assert (before | {"events": "2"}).items() <= q.job("a").items()
    assert q.settle("w", second, "succeeded") is Verdict.OK


def test_settle_after_recovery_is_fenced(q: Scripts) -> None:
    """CASE-08: a paused worker that wakes up late changes nothing."""
    q.enqueue("a")
    q.register("w")
    (stale,) = q.take("w")
    q.register("other")
    for _ in range(4):
        q.pass_time(INTERVAL)
        q.beat("other")
    assert q.recover("w").word == "ok"
    before = q.job("a")
    assert q.settle("w", stale, "succeeded", payload=b"\x01") is Verdict.FENCED
    assert [kind for kind, *_ in q.history("a")] == ["recovered", "late"]
    assert (before | {"events": "2"}).items() <= q.job("a").items() and q.listed("queue", "q") == ["a"]
    (fresh,) = q.take("other")
    assert q.settle("other", fresh, "succeeded") is Verdict.OK
    assert q.settle("w", stale, "dead") is Verdict.FENCED


def test_settle_of_a_vanished_record_is_gone(q: Scripts) -> None:
    """CASE-25: the record was flushed or evicted; the id leaves the processing list."""
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.redis.delete(q.keys.named("job", "a"))
    assert q.settle("w", job, "succeeded") is Verdict.GONE
    assert q.listed("processing", "w") == []
    assert q.settle("w", job, "succeeded") is Verdict.GONE


def test_settle_retry_schedules_and_spends_an_attempt(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.pop_marker()
    assert q.settle("w", job, "retry", 1500, b"err") is Verdict.OK
    record = q.job("a")
    assert record["state"] == "scheduled" and record["attempts"] == "1" and record["error"] == "err"
    assert q.timer_marker(), "a new earliest due time"
    assert q.settle("w", job, "retry", 1500, b"err") is Verdict.AGAIN
    q.pass_time(1.5)
    (job,) = q.take("w")
    assert job.attempts == 1
    assert q.settle("w", job, "retry", 0) is Verdict.OK
    assert q.state("a") == "queued", "without a delay it is takeable at once"


def test_settle_failed_dead_cancelled(q: Scripts) -> None:
    q.enqueue("f", "d", "c")
    q.register("w")
    failed, dead, cancelled = q.take("w")
    assert q.settle("w", failed, "failed", 0, b"e", "why") is Verdict.OK
    assert q.settle("w", dead, "dead", 1, b"e", "why") is Verdict.OK
    assert q.settle("w", cancelled, "cancelled", 0) is Verdict.OK
    assert [q.state(id) for id in "fdc"] == ["failed", "dead", "cancelled"]
    assert q.job("d")["attempts"] == "1" and q.ttl("d") == -1, "the dead stay for a person"
    assert q.redis.zrange(q.keys.single("dead"), 0, -1) == [b"d"]


def test_settle_interrupted_returns_to_the_head_and_counts_no_attempt(q: Scripts) -> None:
    """CASE-28."""
    q.enqueue("a", "b")
    q.register("w")
    (job,) = q.take("w", start=1)
    assert q.settle("w", job, "interrupted") is Verdict.OK
    assert q.listed("queue", "q") == ["b", "a"]
    record = q.job("a")
    assert record["interruptions"] == "1" and "attempts" not in record


def test_settle_parked_and_unpark(q: Scripts) -> None:
    """CASE-51."""
    q.enqueue("a", task="new")
    q.register("w")
    (job,) = q.take("w")
    assert q.settle("w", job, "parked") is Verdict.OK
    assert q.state("a") == "parked" and q.listed("parked", "new") == ["a"]
    beat = q.beat("w")
    assert beat is not None and beat.parked == ("new",)
    assert q.store.run(t.unpark("new", ["other"])) == (0, 1), "an instance that doesn't serve its queue leaves it"
    q.pop_marker()
    assert q.store.run(t.unpark("new", ["q"])) == (1, 0)
    assert q.marker()
    beat = q.beat("w")
    assert beat is not None and beat.parked == ()
    (job,) = q.take("w")
    assert job.attempts == 0


def test_one_bad_item_spoils_no_batch(q: Scripts) -> None:
    """CASE-81: of twenty outcomes one has lost its owner; nineteen are recorded."""
    q.enqueue(*(f"j{n}" for n in range(20)))
    q.register("w")
    jobs = q.take("w", start=20)
    outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 0, b"", "") for job in jobs]
    outcomes[7] = structs.replace(outcomes[7], delivery=b"1")
    verdicts = q.store.run(t.settle("w", outcomes, 120))
    assert verdicts.count(Verdict.OK) == 19 and verdicts[7] is Verdict.FENCED
    assert q.listed("processing", "w") == ["j7"]
