"""lua/tend.lua and follow.lua: followers at bad moments."""

from __future__ import annotations

import pytest

from tests.harness import Scripts
from tests.scripts.common import after, all_told, drain, extras, replacing, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict


def ends(q: Scripts, name: str, outcome: str = "dead", queue: str = "q") -> None:
    (job,) = [job for job in q.take("w", queues=(queue,)) if job.id.decode() == name]
    q.settle("w", job, outcome, 1000, reason="why")


def test_an_id_that_lives_again_before_its_followers_were_told(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("f", extras=after("a"))
    ends(q, "a")
    all_told(q)
    q.store.run(t.purge(["a"]))
    q.enqueue("a")
    all_told(q)
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") != "waiting" and not q.redis.exists(q.keys.named("followers", "a"))


@pytest.mark.parametrize("how", ["unknown", "itself", "too late"])
def test_one_of_which_not_all_was_named_does_not_come_back(q: Scripts, how: str) -> None:
    q.register("w", 1e6)
    q.enqueue("a")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", wants=1, more=2))
    if how == "too late":
        q.pass_time(3601)
    else:
        missing = "f" if how == "itself" else "nobody"
        for _ in range(2):  # the second one is a resend
            assert q.store.run(t.follow("f", 1, 0, [missing], last=False)) == Conflict("unknown", missing)
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0
    q.store.run(t.requeue(["a"]))
    all_told(q)
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("a") > 0


def test_what_a_gathering_job_failed_for_is_removed(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a", "b")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", more=1))
    q.store.run(t.purge(["a"]))
    all_told(q)
    assert q.store.run(t.follow("f", 1, 0, ["b"], last=True)) is t.FollowWord.OK
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_one_that_has_run_decides_for_itself_whatever_comes_back(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", on_failure="ignore"))
    q.store.run(t.requeue(["a"]))
    jobs = {job.id: job for job in drain(q)}
    for name in (b"f", b"a"):
        q.settle("w", jobs[name], "dead", 1, reason="why")
    all_told(q)
    q.store.run(t.requeue(["f"]))
    ends(q, "f", "failed")
    all_told(q)
    q.store.run(t.requeue(["a"]))
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_a_foreign_key_in_the_way_of_one_follower_costs_no_other_its_turn(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("f1", queue="bad", extras=after("a"))
    q.enqueue("f2", extras=after("a"))
    q.redis.set(q.keys.named("queue", "bad"), "x")
    q.redis.set(q.keys.named("told", "a"), "x")
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f1") == "dead" and "WRONGTYPE" in q.job("f1")["reason"] and q.state("f2") == "queued"
    q.enqueue("b")
    q.enqueue("f3", extras=after("b"))
    q.redis.set(q.keys.named("told", "b"), "x")
    for job in q.take("w"):
        q.settle("w", job, "dead" if job.id == b"b" else "succeeded", 1, reason="why")
    all_told(q)
    assert q.state("f3") == "failed" and not q.redis.exists(q.keys.single("ended"))


def test_a_key_is_freed_by_one_that_failed_came_back_and_failed_in_one_call(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("b", queue="p")
    q.enqueue("f", extras=extras(after=["a", "b"], on_failure="fail", unique=["k", "done", "existing", 0]))
    ends(q, "a")
    (b,) = q.take("w", queues=("p",))
    all_told(q)
    q.store.run(t.requeue(["a"]))
    q.settle("w", b, "dead", 1, reason="why")
    all_told(q)
    assert q.state("f") == "failed" and not q.redis.exists(q.keys.named("unique", "k"))


def test_a_replace_from_another_queue_holds_nobody_up(q: Scripts) -> None:
    """The holder stays where it is, and its limits are those that the worker gives it there."""
    q.register("w")
    q.enqueue("h", delay_ms=60_000, extras=replacing(limit="L"))
    elsewhere = extras(unique=["k", "done", "replace", 0], lane="p\nL", limits=[["L", "concurrency", 1, 0, 1]])
    assert q.enqueue("r", queue="p", extras=elsewhere) == [Conflict("replaced", "h")]
    q.redis.sadd(q.keys.named("permits", "L"), "someone")
    q.enqueue("plain")
    held, plain = q.take("w")
    assert (held.id, plain.id) == (b"h", b"plain") and not held.bound


def test_a_followed_job_stays_tracked_when_it_is_replaced(q: Scripts) -> None:
    q.register("w")
    q.enqueue("h", delay_ms=60_000, extras=unique("k", "started", "replace"))
    q.enqueue("f", extras=after("h"))
    q.enqueue("r", tracked=False, extras=unique("k", "started", "replace"))
    ends(q, "h", "succeeded")
    all_told(q)
    assert q.state("f") == "queued"
