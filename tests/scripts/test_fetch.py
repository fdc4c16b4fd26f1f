"""lua/fetch.lua: jobs are handed over."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.harness import TTL, Scripts
from tracked_queue import InvariantError
from tracked_queue.model.codec import encode_any
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import DeadWord, Refusal, Verdict


def test_fetch_moves_in_priority_order_and_numbers_deliveries(q: Scripts) -> None:
    q.enqueue("low", queue="low")
    q.enqueue("high", queue="high")
    q.register("w")
    jobs = q.take("w", queues=("high", "low"))
    assert [(job.id, job.queue) for job in jobs] == [(b"high", b"high"), (b"low", b"low")]
    assert jobs[0].task == "t" and jobs[0].args == b"\x91\x01" and jobs[0].attempts == 0
    assert q.listed("processing", "w") == ["high", "low"]
    record = q.job("high")
    assert record["state"] == "active" and record["lease"] == "w" and record["delivery"] == jobs[0].delivery.decode()


def test_fetch_same_number_returns_the_same_jobs(q: Scripts) -> None:
    """A reply that was lost (CASE-18)."""
    q.enqueue("a", "b", "c")
    q.register("w")
    first = q.fetch("w", start=1, buffer=1)
    before = q.snapshot()
    again = q.fetch("w", start=1, buffer=1, number=1)
    assert [(j.id, j.delivery, j.buffered, j.queue) for j in again.jobs] == [
        (j.id, j.delivery, j.buffered, j.queue) for j in first.jobs
    ]
    assert q.snapshot() == before


def test_fetch_lower_number_is_stale_and_puts_the_marker_back(q: Scripts) -> None:
    q.register("w")
    q.fetch("w")
    q.fetch("w")
    q.enqueue("a")
    q.pop_marker()
    assert q.fetch("w", number=1) is Refusal.STALE
    assert q.marker()
    assert q.state("a") == "queued"


def test_fetch_past_the_deadline_is_late(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.pass_time(TTL)
    q.pop_marker()
    assert q.fetch("w") is Refusal.LATE
    assert q.marker()
    q.beat("w")
    assert len(q.take("w")) == 1


def test_fetch_marks_what_is_buffered_and_never_buffers_it_again(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    jobs = q.take("w", start=1, buffer=1)
    assert [job.buffered for job in jobs] == [b"0", b"1"]
    assert q.job("b")["buffered"] == "1"
    assert q.settle("w", jobs[1], "unstarted") is Verdict.OK
    assert q.take("w", start=0, buffer=5) == [], "it must start at once"
    (job,) = q.take("w", start=1)
    assert job.id == b"b" and "buffered" not in q.job("b")


def test_fetch_sets_the_marker_again_only_if_more_could_be_taken(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    q.pop_marker()
    reply = q.fetch("w", start=1)
    assert reply.more and q.marker()
    q.pop_marker()
    reply = q.fetch("w", start=1)
    assert not reply.more and not q.marker()


def test_fetch_limits_a_reply_by_bytes(q: Scripts) -> None:
    q.enqueue("a", "b", "c", args=b"\xc5" + b"x" * 600_000)
    q.register("w")
    assert [job.id for job in q.take("w")] == [b"a"]
    assert q.marker()


def test_fetch_promotes_due_jobs(q: Scripts) -> None:
    q.enqueue("a", delay_ms=1000)
    q.register("w")
    reply = q.fetch("w")
    assert reply.jobs == [] and reply.next_due == 1.0
    q.pass_time(1)
    q.pop_marker()
    reply = q.fetch("w")
    assert [job.id for job in reply.jobs] == [b"a"] and not reply.more and not q.marker()


def test_fetch_promotes_a_bounded_number(q: Scripts) -> None:
    """CASE-40, CASE-80."""
    for at in range(0, 600, 200):
        q.enqueue(*(f"j{n}" for n in range(at, at + 200)), delay_ms=10)
    q.register("w")
    q.pass_time(1)
    q.fetch("w", start=1)
    assert q.redis.zcard(q.keys.single("scheduled")) == 520


def test_fetch_skips_a_paused_queue_without_a_marker(q: Scripts) -> None:
    q.store.run(t.pause("queue:q"))
    q.enqueue("a")
    q.register("w")
    reply = q.fetch("w")
    assert reply.jobs == [] and not reply.more and not q.marker(), "a paused head must not make workers spin"
    q.store.run(t.resume("queue:q"))
    assert q.marker() and len(q.take("w")) == 1


def test_fetch_parks_the_jobs_of_a_paused_task_and_serves_those_behind(q: Scripts) -> None:
    q.enqueue("a", task="slow")
    q.enqueue("b", task="fast")
    q.store.run(t.pause("task:slow"))
    q.register("w")
    q.fetch("w", start=1)
    assert [job.id for job in [*q.take("w")]] == [b"b"] or q.state("b") == "active"
    assert q.state("a") == "parked"
    assert q.store.run(t.unpark("slow", [])) == (0, 0), "paused"
    q.store.run(t.resume("task:slow"))
    assert q.store.run(t.unpark("slow", [])) == (1, 0)
    assert q.state("a") == "queued" and q.marker()


def test_fetch_says_that_something_has_to_start_at_once(q: Scripts) -> None:
    """Else an instance whose buffer never runs empty would ask for it never."""
    q.enqueue("a")
    q.enqueue("b")
    q.redis.hset(q.keys.named("job", "a"), mapping={"buffered": "never", "delivery": "0"})
    q.register("w")
    assert (reply := q.fetch("w", start=0, buffer=5)).must_start and reply.more and not reply.jobs
    reply = q.fetch("w", start=1, buffer=0)
    assert [job.id for job in reply.jobs] == [b"a"] and reply.more and not reply.must_start


def test_an_error_among_outcomes_costs_no_other_its_place(q: Scripts) -> None:
    """A foreign key in the way of one: what settled before it has settled, what comes after it is still held and comes back."""
    for name in "abcde":
        q.enqueue(name)
    q.register("w")
    jobs = q.take("w")
    q.redis.set(q.keys.named("parked", "t"), "foreign")
    outcomes = [t.Outcome(job.id, job.delivery, t.OutcomeKind.SUCCEEDED, 0, b"", "") for job in jobs]
    outcomes[2] = structs.replace(outcomes[2], kind="parked")
    with pytest.raises(InvariantError):
        q.store.run(t.settle("w", outcomes, 120))
    assert [q.state(name) for name in "abde"] == ["succeeded", "succeeded", "active", "active"]
    assert {"d", "e"} <= set(q.listed("processing", "w"))
    q.release("w", t.End.INTERRUPTED)
    q.recover("w")
    assert q.listed("processing", "w") == [] and sorted(q.listed("queue", "q")) == ["d", "e"]
    assert [q.state(name) for name in "ab"] == ["succeeded"] * 2


def test_fetch_removes_an_untracked_job(q: Scripts) -> None:
    q.enqueue("b", tracked=False, kwargs=encode_any({"n": 1}))
    q.enqueue("a", tracked=False)
    q.register("w")
    fetch = t.fetch("w", 1, 9, 0, ["q"])
    raw = q.store.run(t.Call(fetch.script, fetch.args, list))
    named, job = (raw[at : at + 5] for at in (7, 12))
    assert job[1] == named[1] == b"0"
    assert (len(job[4]), len(named[4])) == (4, 6), "no ledgers of what is never counted"
    assert named[4][4] and not q.job("b")
    assert not q.job("a") and q.listed("processing", "w") == []
    assert q.fetch("w", number=1).jobs == [], "at most once, also after a lost reply"


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"id": 5}', b" " * 1_000_000, b"missing-record"]
)
def test_garbage_in_the_queue_is_buried_once(q: Scripts, garbage: bytes) -> None:
    """CASE-50: it lands once in dead with its raw bytes, bounded; the good job behind it runs."""
    q.redis.rpush(q.keys.named("queue", "q"), garbage)
    q.enqueue("good")
    q.register("w")
    reply = q.fetch("w")
    assert [job.id for job in reply.jobs] == [b"good"]
    assert len(reply.buried) == 1 and q.redis.zcard(q.keys.single("dead")) == 1
    record = q.redis.hgetall(q.keys.named("job", reply.buried[0]))
    assert record[b"state"] == b"dead" and record[b"raw"] == garbage[:1024]
    assert q.store.run(t.requeue([reply.buried[0]])) == [DeadWord.UNUSABLE]
    assert q.store.run(t.purge([reply.buried[0]])) == [DeadWord.OK]


def test_delivery_numbers_grow_when_the_clock_goes_back(q: Scripts) -> None:
    """A failover to a server whose clock is behind."""
    q.enqueue("a")
    q.register("w")
    (first,) = q.take("w")
    q.settle("w", first, "interrupted")
    q.now(q.now() - 5000)
    q.beat("w")
    (second,) = q.take("w")
    assert int(second.delivery) > int(first.delivery)


def test_fetch_says_how_long_a_job_has_waited(q: Scripts) -> None:
    q.enqueue("plain")
    q.enqueue("named", kwargs=encode_any({"n": 1}))
    q.enqueue("late", delay_ms=1000)
    q.register("w")
    q.pass_time(3)
    q.beat("w")
    jobs = {job.id: job for job in q.take("w")}
    assert {job_id: job.waited_ms for job_id, job in jobs.items()} == {b"plain": 3000, b"named": 3000, b"late": 2000}
    q.settle("w", jobs[b"plain"], "retry", ms=1000)
    q.settle("w", jobs[b"named"], "interrupted")
    q.pass_time(1.5)
    again = {job.id: job.waited_ms for job in q.take("w")}
    assert again == {b"plain": 500, b"named": -1}, "a backoff is no wait, and what came before is not counted twice"


@pytest.mark.parametrize("garbage", [b"", b"soon", b"\xff", b"9" * 5000, b"-1", b"1e3"])
def test_a_damaged_time_of_one_job_keeps_no_other_from_running(q: Scripts, garbage: bytes) -> None:
    q.enqueue("a", "b", "c")
    q.register("w")
    q.redis.hset(q.keys.record_of("b"), "queued_ms", garbage)
    q.pass_time(1)
    jobs = {job.id: job for job in q.take("w")}
    assert set(jobs) == {b"a", b"b", b"c"} and jobs[b"a"].waited_ms == jobs[b"c"].waited_ms == 1000
    assert all(job.args == b"\x91\x01" for job in jobs.values())
