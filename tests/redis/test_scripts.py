"""Every script against a real server: each word of its header, nothing written on refusal, the second run."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.harness import INTERVAL, START_MS, TTL, Scripts, request
from tracked_queue import InvariantError, State, StoreRefusedError
from tracked_queue.model.codec import encode_any
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.protocol.transitions import CancelWord, DeadWord, Fate, Refusal, Verdict

# enqueue


def test_enqueue_created_then_exists(q: Scripts) -> None:
    """A resend of the same id adds nothing (CASE-19)."""
    assert q.enqueue("a", "b") == [True, True]
    before = q.snapshot()
    assert q.enqueue("a", "b") == [False, False]
    assert q.snapshot() == before
    assert q.listed("queue", "q") == ["b", "a"]
    assert q.marker()


def test_enqueue_same_id_twice_in_one_batch(q: Scripts) -> None:
    assert q.enqueue("a", "a") == [True, False]
    assert q.listed("queue", "q") == ["a"]


def test_enqueue_of_an_ended_id_does_not_run_it_again(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "succeeded")
    assert q.enqueue("a") == [False]
    assert q.listed("queue", "q") == []


def test_enqueue_keeps_first_in_first_out(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.enqueue("c")
    q.register("w")
    assert [job.id for job in q.take("w")] == [b"a", b"b", b"c"]


def test_enqueue_delayed_is_scheduled_and_marks_a_new_earliest_due_time(q: Scripts) -> None:
    q.enqueue("late", delay_ms=5000)
    assert q.state("late") == "scheduled"
    assert q.redis.zscore(q.keys.single("scheduled"), "late") == START_MS + 5000
    assert q.timer_marker() and not q.marker(), "whoever has the timer, not whoever serves the queue"
    q.enqueue("later", delay_ms=9000)
    assert not q.timer_marker(), "a later due time wakes nobody"
    q.enqueue("sooner", due_ms=START_MS + 100)
    assert q.timer_marker()


def test_delays_in_one_batch_wake_for_the_earliest_of_them(q: Scripts) -> None:
    q.enqueue("far", delay_ms=9000)
    assert q.timer_marker()
    batch = [request(id, delay_ms=ms) for id, ms in (("a", 9500), ("b", 5000), ("c", 7000))]
    q.store.run(t.enqueue(batch))
    assert q.timer_marker(), "one of them is due before all others"
    q.store.run(t.enqueue([request("d", delay_ms=6000)]))
    assert not q.timer_marker()


def test_a_retry_wakes_only_for_a_new_earliest_due_time(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a", "b")
    later, sooner = q.take("w")
    q.enqueue("due", delay_ms=5000)
    q.timer_marker()
    q.settle("w", later, "retry", ms=9000)
    assert not q.timer_marker()
    q.settle("w", sooner, "retry", ms=1000)
    assert q.timer_marker()


def test_every_counter_of_a_minute_has_its_time_to_live(q: Scripts) -> None:
    q.register("w")
    for round_ in range(2):
        q.enqueue(f"a{round_}", f"b{round_}")
        q.pass_time(61)  # each minute has one kind of count, some of them more than once
        q.beat("w")
        for job in q.take("w"):
            q.settle("w", job, "succeeded")
        q.pass_time(61)
        q.beat("w")
    keys = list(q.redis.scan_iter(q.keys.named("stats", "*")))
    assert len(keys) == 4 and all(0 < q.redis.pttl(key) <= 7_200_000 for key in keys)


def test_enqueue_due_in_the_past_is_takeable_now(q: Scripts) -> None:
    q.enqueue("a", due_ms=1)
    assert q.state("a") == "queued"


def test_queued_and_scheduled_records_carry_no_expiry(q: Scripts) -> None:
    """CASE-39."""
    q.enqueue("a")
    q.enqueue("b", delay_ms=365 * 86400 * 1000)
    assert q.ttl("a") == q.ttl("b") == -1


# register, heartbeat, release


def test_register_and_beat(q: Scripts) -> None:
    assert q.register("w")
    assert q.register("w"), "again after a lost reply"
    q.pass_time(2)
    beat = q.beat("w")
    assert beat == t.Beat(quiet=False, run_out=False, cancels=(), parked=())
    assert q.redis.zscore(q.keys.single("instances"), "w") == q.now() + TTL * 1000


def test_a_late_beat_before_the_revocation_extends_the_lease(q: Scripts) -> None:
    q.register("w")
    q.pass_time(TTL + 5)
    assert q.beat("w") is not None
    assert q.recover("w").word == "alive"


def test_a_revoked_lease_is_lost_for_good(q: Scripts) -> None:
    """CASE-09: nothing revives a revoked lease."""
    q.enqueue("a")
    q.register("w")
    q.take("w")
    assert q.release("w")
    before = q.snapshot()
    assert q.beat("w") is None
    assert not q.register("w")
    assert q.fetch("w") is Refusal.LOST
    assert not q.store.run(t.quiet("w", True))
    assert q.snapshot() == before


def test_beat_of_an_unknown_lease_is_lost(q: Scripts) -> None:
    """FLUSHALL or a restart without persistence took it (CASE-25)."""
    before = q.snapshot()
    assert q.beat("nobody") is None
    assert q.snapshot() == before


def test_beat_tells_of_run_out_leases_cancels_and_parked_tasks(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    q.register("dead")
    q.take("w", start=1)
    q.store.run(t.cancel(["a"], 60.0))
    q.pass_time(INTERVAL)
    q.beat("w")
    q.pass_time(INTERVAL)
    beat = q.beat("w")
    assert beat is not None and beat.cancels == ("a",) and not beat.run_out
    q.pass_time(INTERVAL)
    q.beat("w")
    q.pass_time(INTERVAL)
    beat = q.beat("w")
    assert beat is not None and beat.run_out and beat.cancels == ("a",), "repeated until it settles"


def test_release_dropped_revoked_gone(q: Scripts) -> None:
    q.register("idle")
    assert not q.release("idle")
    assert not q.redis.exists(q.keys.named("instance", "idle"))
    q.enqueue("a")
    q.register("w")
    q.take("w")
    assert q.release("w")
    assert q.release("w"), "said twice"
    before = q.snapshot()
    assert not q.release("nobody")
    assert q.snapshot() == before


def test_quiet_fetches_nothing_until_undone(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    assert q.store.run(t.quiet("w", True))
    q.pop_marker()
    assert q.fetch("w") is Refusal.QUIET
    assert q.marker(), "the popped marker is put back"
    beat = q.beat("w")
    assert beat is not None and beat.quiet
    assert q.store.run(t.quiet("w", False))
    assert [job.id for job in q.take("w")] == [b"a"]


# fetch


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
    outcomes = [t.Outcome(job.id, job.delivery, "succeeded", 0, b"", "") for job in jobs]
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
    named, job = q.take("w")
    assert job.delivery == named.delivery == b"0"
    assert (len(job.record), len(named.record)) == (4, 6), "no ledgers of what is never counted"
    assert named.kwargs and not q.job("b")
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


# settle


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
    outcomes = [t.Outcome(job.id, job.delivery, "succeeded", 120_000, b"", "") for job in told]
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
    before = q.snapshot()
    assert q.settle("other", job, "succeeded") is Verdict.FENCED
    assert q.snapshot() == before


def test_settle_with_another_delivery_number_is_fenced(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (first,) = q.take("w")
    q.settle("w", first, "interrupted")
    (second,) = q.take("w")
    before = q.snapshot()
    assert (
        q.settle("w", structs.replace(first, delivery=str(int(second.delivery) + 1).encode()), "succeeded")
        is Verdict.FENCED
    )
    assert q.snapshot() == before
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
    before = q.snapshot()
    assert q.settle("w", stale, "succeeded", payload=b"\x01") is Verdict.FENCED
    assert q.snapshot() == before
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
    outcomes = [t.Outcome(job.id, job.delivery, "succeeded", 0, b"", "") for job in jobs]
    outcomes[7] = structs.replace(outcomes[7], delivery=b"1")
    verdicts = q.store.run(t.settle("w", outcomes, 120))
    assert verdicts.count(Verdict.OK) == 19 and verdicts[7] is Verdict.FENCED
    assert q.listed("processing", "w") == ["j7"]


# recover


def die(q: Scripts, *survivors: str) -> None:
    """Time passes beyond the TTL while the survivors beat: no hold, the silent ones have run out."""
    for _ in range(5):
        q.pass_time(INTERVAL)
        for lease in survivors:
            q.beat(lease)


def test_recover_alive_is_refused(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    before = q.snapshot()
    portion = q.recover("w")
    assert portion.word == "alive" and portion.wait == TTL
    assert q.snapshot() == before


def test_recover_gone_is_refused(q: Scripts) -> None:
    before = q.snapshot()
    assert q.recover("nobody").word == "gone"
    assert q.snapshot() == before


@pytest.mark.parametrize("n", [2, 3])
def test_recover_moves_back_in_order_and_drops_the_lease(q: Scripts, n: int) -> None:
    """CASE-01, CASE-64: ahead of what waits, and the oldest first within a portion, whatever order the server lists them in."""
    q.enqueue("a", "b", "c", "d")
    q.register("dead")
    q.take("dead", start=3)
    q.register("w")
    q.pop_marker()
    die(q, "w")
    portion = q.recover("dead", n=n)
    assert portion.word == "ok" and portion.remaining == 3 - n and portion.label == "label-dead"
    assert [job.fate for job in portion.jobs] == [Fate.REQUEUED] * n
    assert q.beat("dead") is None, "the first write revoked it"
    if portion.remaining:
        assert q.recover("dead", n=n).remaining == 0
    assert q.recover("dead").word == "gone"
    assert q.marker()
    back = [job.id for job in q.take("w")]
    assert back[-1] == b"d" and sorted(back) == [b"a", b"b", b"c", b"d"]
    assert n == 2 or back == sorted(back)
    assert q.job("a")["recoveries"] == "1" and "charges" not in q.job("a")


def test_recover_by_eight_moves_each_job_once(q: Scripts) -> None:
    """CASE-05: the lock saves work, the script keeps the count."""
    for at in range(0, 1000, 250):
        q.enqueue(*(f"j{n}" for n in range(at, at + 250)))
    q.register("dead")
    for _ in range(4):
        q.take("dead", start=250)
    q.release("dead")
    moved: list[str] = []
    words = set()
    while True:
        portions = [q.recover("dead", owner=f"w{n}") for n in range(8)]
        moved += [job.id for portion in portions for job in portion.jobs]
        words |= {portion.word for portion in portions}
        if any(portion.word == "gone" for portion in portions):
            break
    assert sorted(moved) == sorted(f"j{n}" for n in range(1000))
    assert words == {"ok", "busy", "gone"}
    assert not q.redis.exists(q.keys.single("recovery_lock"))


def test_recover_is_held_after_nobody_beat(q: Scripts) -> None:
    """CASE-23: Redis was away for longer than the TTL; nobody is dead until one TTL after it came back."""
    q.enqueue("a")
    q.register("w")
    q.register("other")
    q.take("other")
    q.pass_time(3 * TTL)
    assert q.beat("w") is not None
    before = q.snapshot()
    portion = q.recover("other")
    assert portion.word == "hold" and portion.wait == TTL
    assert q.snapshot() == before
    assert q.beat("other") is not None, "the other one comes back within the hold"
    assert q.recover("other").word == "alive"


def test_what_is_recovered_after_a_hold_is_an_interruption(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.register("other")
    q.take("other")
    q.pass_time(3 * TTL)
    die(q, "w")
    (job,) = q.recover("other").jobs
    assert job.fate is Fate.INTERRUPTED
    assert q.job("a")["interruptions"] == "1" and "recoveries" not in q.job("a")


def test_a_released_lease_is_recovered_during_a_hold(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    q.pass_time(3 * TTL)
    q.register("other")
    q.release("w")
    assert q.recover("w").word == "ok"


def test_the_first_instance_after_a_gap_holds(q: Scripts) -> None:
    """All workers were gone: counted from when the first instance is up, recovery takes one TTL."""
    q.enqueue("a")
    q.register("old")
    q.take("old")
    q.pass_time(1000)
    q.register("new")
    assert q.recover("old").word == "hold"


def test_a_deadline_far_ahead_is_cut_to_one_ttl(q: Scripts) -> None:
    """A failover to a server whose clock is an hour behind."""
    q.enqueue("a")
    q.register("dead")
    q.take("dead")
    q.now(q.now() - 3_600_000)
    q.register("w")
    beat = q.beat("w")
    assert beat is not None and beat.run_out
    assert "dead" in q.store.run(t.sweep(TTL))
    portion = q.recover("dead")
    assert portion.word == "alive" and portion.wait == TTL
    die(q, "w")
    assert q.recover("dead").word == "ok"


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_buffered_job_that_may_have_begun_is_counted(q: Scripts, interrupted: bool) -> None:
    q.enqueue("a", "b")
    q.register("w")
    q.take("w", start=1, buffer=1)
    q.release("w", t.End.INTERRUPTED if interrupted else t.End.DIED)
    fates = {job.id: job.fate for job in q.recover("w").jobs}
    assert fates == {"a": Fate.INTERRUPTED if interrupted else Fate.REQUEUED, "b": Fate.UNSTARTED}
    for job in "ab":
        ledgers = {name: q.job(job).get(name) for name in ("recoveries", "interruptions")}
        assert ledgers == {"recoveries": None if interrupted else "1", "interruptions": "1" if interrupted else None}
    assert q.job("b")["buffered"] == "never"


def test_recover_honours_a_wish_to_cancel(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    assert q.store.run(t.cancel(["a"], 300.0)) == [CancelWord.REQUESTED]
    q.release("w")
    (job,) = q.recover("w").jobs
    assert job.fate is Fate.CANCELLED and q.state("a") == "cancelled" and q.listed("queue", "q") == []


def test_recover_of_an_id_without_a_record_buries_it(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    q.redis.delete(q.keys.named("job", "a"))
    q.release("w")
    (job,) = q.recover("w").jobs
    assert job.fate is Fate.GONE and q.state("a") == "dead"


def test_sweep_lists_what_ran_out(q: Scripts) -> None:
    q.register("w")
    q.register("dead")
    assert q.store.run(t.sweep(TTL)) == []
    die(q, "w")
    assert q.store.run(t.sweep(TTL)) == ["dead"]


# await


def test_await_waiting_ended_gone(q: Scripts) -> None:
    assert q.store.run(t.await_end("a")) is False
    q.enqueue("a")
    assert q.store.run(t.await_end("a")) is True
    assert q.store.run(t.await_end("a")) is True
    q.register("w")
    (job,) = q.take("w")
    with q.redis.pubsub() as listener:
        channel = q.keys.named("ended", "a")
        sharded = hasattr(listener, "ssubscribe") and int(q.redis.info()["redis_version"].split(".")[0]) >= 7
        (listener.ssubscribe if sharded else listener.subscribe)(channel)
        listener.get_message(timeout=5)
        q.settle("w", job, "succeeded", 0, b"\x05")
        get = listener.get_sharded_message if sharded else listener.get_message
        message = get(timeout=5, ignore_subscribe_messages=False)
        assert message is not None and message["data"] == b"succeeded"
    assert q.store.run(t.await_end("a")) == t.Ended(State.SUCCEEDED, b"\x05", "", b"", "t")


# the operator's


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
    outcomes = [t.Outcome(job.id, job.delivery, "dead", 0, b"", "") for job in jobs]
    assert set(q.store.run(t.settle("w", outcomes, 120))) == {Verdict.OK}
    assert set(q.store.run(t.requeue(ids))) == {DeadWord.OK}
    assert set(q.store.run(t.cancel(ids, 60.0))) == {CancelWord.CANCELLED}
    assert q.fetch("w", start=250).jobs == []


# layout, close


def test_the_number_of_shards_is_set_once_and_changed_only_from_what_it_was(q: Scripts) -> None:
    assert q.store.run(t.layout("", "3")) == "3" == q.store.run(t.layout("", "3"))
    assert q.store.run(t.layout("", "4")) == "3", "asking changes nothing"
    assert q.store.run(t.layout("5", "4")) == "3", "it is not what the change is from"
    assert q.store.run(t.layout("3", "3>4")) == "3>4" == q.store.run(t.layout("3", "3>4")), "the same again"
    assert q.store.run(t.layout("3>4", "4")) == "4"


def test_a_namespace_from_before_there_were_shards_has_one(q: Scripts) -> None:
    q.enqueue("a")
    assert q.store.run(t.layout("", "3")) == "1"
    assert q.store.run(t.layout("", "1")) == "1"


@pytest.mark.parametrize("state", ["queued", "scheduled", "waiting", "active", "dead", "parked", "registered"])
def test_a_shard_that_holds_something_is_not_closed(q: Scripts, state: str) -> None:
    q.store.run(t.register("w", TTL, INTERVAL, {}))
    assert q.store.run(t.close("close")) == "instances"
    if state == "scheduled":
        q.enqueue("a", delay_ms=60_000)
    elif state != "registered":
        q.enqueue("a")
    if state == "waiting":
        q.enqueue("b", extras=encode_extras({"after": ["a"], "on_failure": "fail"}))
        q.redis.delete(q.keys.named("queue", "q"))
    if state in ("active", "dead", "parked"):
        (job,) = q.take("w")
        if state != "active":
            q.settle("w", job, state, 1 if state == "dead" else 0)
    if state != "active":
        q.store.run(t.release("w", t.End.INTERRUPTED))
    busy = q.store.run(t.close("close"))
    named = {"queued": "queue q", "waiting": "dependents", "active": "instances", "registered": ""}.get(state, state)
    assert busy == named
    closed = state == "registered"
    assert q.redis.sismember(q.keys.single("paused"), "closed") == closed
    for key in q.redis.scan_iter(match="*:job:*"):
        if q.keys.tag in key.decode():
            q.redis.delete(key)  # what the test left on purpose


def test_nothing_gets_into_a_closed_shard(q: Scripts) -> None:
    assert q.store.run(t.close("close")) == "" == q.store.run(t.close("close"))
    with pytest.raises(StoreRefusedError, match="another number of shards"):
        q.enqueue("a")
    with pytest.raises(StoreRefusedError, match="another number of shards"):
        q.store.run(t.register("w", TTL, INTERVAL, {}))
    assert not q.redis.exists(q.keys.named("job", "a")) and not q.redis.exists(q.keys.single("instances"))
    assert q.store.run(t.close("open")) == ""
    q.enqueue("a")


# A fleet that finds something to do does it once


def test_one_of_a_fleet_is_told_to_sweep_and_nobody_during_a_hold(q: Scripts) -> None:
    for lease in ("w1", "w2", "w3", "lost"):
        q.register(lease)
    q.pass_time(TTL / 2)
    for lease in ("w1", "w2", "w3"):
        q.beat(lease)
    q.pass_time(TTL / 2 + 0.001)
    q.redis.delete(q.keys.single("hold"))
    q.redis.set(q.keys.single("contact"), q.now())
    told = [beat.run_out for beat in map(q.beat, ("w1", "w2", "w3")) if beat is not None]
    assert told == [True, False, False]
    q.redis.delete(q.keys.single("sweeper"))
    q.redis.set(q.keys.single("hold"), q.now() + 5000)
    beat = q.beat("w1")
    assert beat is not None and not beat.run_out and q.store.run(t.sweep(TTL)) == []
    q.enqueue("a")
    q.take("w2")
    q.release("w2")
    beat = q.beat("w1")
    assert beat is not None and beat.run_out and q.store.run(t.sweep(TTL)) == ["w2"], "on somebody's word all the same"


@pytest.mark.parametrize("laned", [False, True])
@pytest.mark.parametrize("dropped", ["cancelled", "expired", "parked"])
def test_what_is_dropped_takes_no_place_of_what_runs(q: Scripts, dropped: str, laned: bool) -> None:
    """With one slot each fetch looked at one id, whatever became of it: 5,000 cancelled jobs took half a minute."""
    lane = {"lane": "q\nx"} if laned else {}
    expiring = {"expires": "+100"} if dropped == "expired" else {}
    packed = encode_extras({**lane, **expiring}) if lane or expiring else b""
    live = encode_extras(lane) if lane else b""
    jobs = [f"j{n}" for n in range(70)]
    q.enqueue(*jobs, task="gone" if dropped == "parked" else "t", extras=packed)
    q.enqueue("live", extras=live)
    q.register("w")
    if dropped == "cancelled":
        q.store.run(t.cancel(jobs, 60))
    elif dropped == "expired":
        q.pass_time(1)
        q.beat("w")
    else:
        q.store.run(t.pause("task:gone"))
    assert [job.id for job in q.take("w", start=1)] == [b"live"]


def test_an_untracked_job_of_an_unknown_task_waits_for_who_knows_it(q: Scripts) -> None:
    """It was handed over, and so gone, before anybody looked."""
    q.store.run(t.register("old", TTL, INTERVAL, {"label": "old", "tasks": "t\nother"}))
    q.enqueue("a", "b", task="new", tracked=False)
    q.enqueue("c", task="t", tracked=False)
    q.enqueue("d", task="ther", tracked=False)
    assert [job.id for job in q.take("old")] == [b"c"]
    assert q.listed("parked", "new") == ["b", "a"] and q.state("a") == "parked" and q.state("d") == "parked"
    q.store.run(t.register("new", TTL, INTERVAL, {"label": "new", "tasks": "new"}))
    beat = q.beat("new")
    assert beat is not None and set(beat.parked) == {"new", "ther"}
    assert q.store.run(t.unpark("new", ["q"])) == (2, 0)
    assert sorted(job.id for job in q.take("new")) == [b"a", b"b"]
