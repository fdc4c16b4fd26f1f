"""lua/cancel.lua, requeue.lua, purge.lua, trim.lua, unpark.lua, pause.lua, resume.lua, quiet.lua: what a person does."""

from __future__ import annotations

from tests.harness import Scripts, request
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import CancelWord, DeadWord, Verdict


def test_cancel_words(q: Scripts) -> None:
    """CASE-34: queued and delayed at once, active asked for, ended and unknown left alone."""
    q.enqueue("active")
    q.register("w")
    (job,) = q.take("w")
    q.enqueue("queued")
    q.enqueue("delayed", delay_ms=1000)
    ids = ["queued", "delayed", "active", "unknown", "queued"]
    assert q.store.run(t.cancel(ids, 300.0)) == [
        CancelWord.CANCELLED, CancelWord.CANCELLED, CancelWord.REQUESTED, CancelWord.GONE, CancelWord.ENDED,
    ]  # fmt: skip
    assert q.state("queued") == q.state("delayed") == "cancelled" and q.state("active") == "active"
    assert not q.redis.exists(q.keys.named("job", "unknown"))
    assert q.redis.zcard(q.keys.single("scheduled")) == 0
    assert q.settle("w", job, "retry", 10) is Verdict.OK
    assert q.state("active") == "cancelled", "a wish to cancel beats a retry"
    before = q.snapshot()
    assert q.store.run(t.cancel(["active"], 300.0)) == [CancelWord.ENDED]
    assert q.snapshot() == before


def test_a_cancelled_job_that_succeeds_has_succeeded(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.store.run(t.cancel(["a"], 300.0))
    q.settle("w", job, "succeeded")
    assert q.state("a") == "succeeded" and not q.redis.exists(q.keys.named("cancel", "w"))


def test_a_cancelled_queued_job_is_dropped_by_the_fetch_and_expires(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.store.run(t.cancel(["a"], 300.0))
    assert q.ttl("a") == -1, "while its id is in the list"
    q.register("w")
    assert [job.id for job in q.take("w")] == [b"b"]
    assert 0 < q.ttl("a") <= 300_000


def test_requeue_words(q: Scripts) -> None:
    q.enqueue("d", "live")
    q.register("w")
    dead, live = q.take("w")
    q.settle("w", dead, "dead", 0, b"e", "why")
    q.pop_marker()
    assert q.store.run(t.requeue(["d", "live", "none", "d"])) == [
        DeadWord.OK, DeadWord.NOT_DEAD, DeadWord.GONE, DeadWord.NOT_DEAD,
    ]  # fmt: skip
    record = q.job("d")
    assert record["state"] == "queued" and record["attempts"] == "0" and "reason" not in record
    assert q.marker() and q.redis.zcard(q.keys.single("dead")) == 0
    assert q.store.run(t.requeue(["d"])) == [DeadWord.NOT_DEAD]
    (job,) = q.take("w")
    assert job.id == b"d" and int(job.delivery) > int(dead.delivery)
    q.settle("w", job, "succeeded")
    q.settle("w", live, "succeeded")


def test_purge_words(q: Scripts) -> None:
    q.enqueue("d", "live")
    q.register("w")
    dead, _ = q.take("w")
    q.settle("w", dead, "dead")
    assert q.store.run(t.purge(["d", "live", "none"])) == [DeadWord.OK, DeadWord.NOT_DEAD, DeadWord.GONE]
    assert not q.job("d") and q.redis.zcard(q.keys.single("dead")) == 0
    before = q.snapshot()
    assert q.store.run(t.purge(["d", "live"])) == [DeadWord.GONE, DeadWord.NOT_DEAD]
    assert q.snapshot() == before


def test_trim_by_age_and_number(q: Scripts) -> None:
    """CASE-59: incremental, and only beyond the limits."""
    q.register("w", ttl=1000)
    for n in range(10):
        q.enqueue(f"d{n}")
        (job,) = q.take("w")
        q.settle("w", job, "dead")
        q.pass_time(1)
    assert q.store.run(t.trim(100.0, 10, 5)) == 0
    assert q.store.run(t.trim(7.5, 10, 5)) == 3
    assert q.store.run(t.trim(100.0, 4, 2)) == 2
    assert q.store.run(t.trim(100.0, 4, 2)) == 1
    assert [id.decode() for id in q.redis.zrange(q.keys.single("dead"), 0, -1)] == ["d6", "d7", "d8", "d9"]
    assert not q.job("d0")


def test_pause_and_resume_say_again(q: Scripts) -> None:
    assert q.store.run(t.pause("queue:q"))
    before = q.snapshot()
    assert not q.store.run(t.pause("queue:q"))
    assert q.snapshot() == before
    assert q.store.run(t.resume("queue:q"))
    before = q.snapshot()
    assert not q.store.run(t.resume("queue:q"))
    assert q.snapshot() == before


def test_owned_lists_ids_and_deliveries(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    assert q.store.run(t.owned("w")) == [("a", job.delivery.decode())]


def test_every_batch_is_one_call_up_to_the_limit(q: Scripts) -> None:
    """CASE-80: 250 of anything fit into one call."""
    ids = [f"j{n}" for n in range(250)]
    assert all(q.store.run(t.enqueue([request(id) for id in ids])))
    q.register("w")
    jobs = q.take("w", start=250)
    assert len(jobs) == 250
    outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.DEAD, 0, b"", "") for job in jobs]
    assert set(q.store.run(t.settle("w", outcomes, 120))) == {Verdict.OK}
    assert set(q.store.run(t.requeue(ids))) == {DeadWord.OK}
    assert set(q.store.run(t.cancel(ids, 60.0))) == {CancelWord.CANCELLED}
    assert q.fetch("w", start=250).jobs == []
