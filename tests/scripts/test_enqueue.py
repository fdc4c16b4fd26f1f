"""lua/enqueue.lua: jobs are stored, each once."""

from __future__ import annotations

from tests.harness import START_MS, Scripts, request
from tests.scripts.common import extras, unique
from tracked_queue.protocol import transitions as t


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


def test_a_known_id_adds_nothing_when_its_record_is_gone(q: Scripts) -> None:
    known = extras(known=60_000)
    assert q.enqueue("a", extras=known) == [True]
    assert 59_000 < q.redis.pttl(q.keys.named("known", "a")) <= 60_000
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "succeeded")
    q.redis.delete(q.keys.named("job", "a"))  # as it expires
    before = q.snapshot()
    assert q.enqueue("a", extras=known) == [False]
    assert q.store.run(t.enqueue([request("a", task="other", extras=known)])) == [t.Conflict("taken", "t")]
    assert q.snapshot() == before
    # One that doesn't say `known` pays nothing, and knows of nothing.
    assert q.enqueue("a") == [True]


def test_what_the_unique_key_of_a_known_id_came_to_is_not_decided_twice(q: Scripts) -> None:
    holder = unique("k")
    assert q.enqueue("a", extras=holder) == [True]
    second = extras(known=60_000, unique=["k", "done", "existing", 0])
    replacing = extras(known=60_000, unique=["k", "done", "replace", 0])
    assert q.enqueue("b", extras=second) == [t.Conflict("held", "a")]
    assert q.enqueue("c", extras=replacing) == [t.Conflict("replaced", "a")]
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "succeeded")
    before = q.snapshot()
    assert q.enqueue("b", extras=second) == [t.Conflict("held", "a")]
    assert q.enqueue("c", extras=replacing) == [t.Conflict("replaced", "a")]
    assert q.enqueue("b", "b", extras=second) == [t.Conflict("held", "a")] * 2
    assert q.snapshot() == before
    # What comes after one that was not stored comes after the job that it stands for, in its own batch and later.
    child = extras(after=["b"], on_failure="fail")
    batch = [request("b", extras=second), request("x", extras=child)]
    assert q.store.run(t.enqueue(batch)) == [t.Conflict("held", "a"), True]
    assert q.enqueue("y", extras=child) == [True]
    assert q.job("y")["after"] == q.job("x")["after"]
    assert q.enqueue("d", extras=second) == [True], "the key is free"
