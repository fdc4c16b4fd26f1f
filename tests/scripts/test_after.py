"""Jobs that come after others, in lua/enqueue.lua, follow.lua and tend.lua."""

from __future__ import annotations

import pytest

from tests.harness import Scripts
from tests.scripts.common import after, drain, extras, ids
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict


def test_a_follower_waits_for_all_and_gets_their_results(q: Scripts) -> None:
    q.enqueue("a", "b")
    assert q.enqueue("c", extras=after("a", "b", wants=2)) == [True]
    assert q.state("c") == "waiting" and q.enqueue("c", extras=after("a", "b")) == [False]
    q.register("w")
    jobs = q.take("w")
    q.settle("w", jobs[1], "succeeded", payload=b"\x02")
    drain(q)
    assert q.state("c") == "waiting"
    q.settle("w", jobs[0], "succeeded", 1000)
    assert q.ttl("a") == -1, "it stays until its followers are told"
    (follower,) = drain(q)
    assert follower.id == b"c" and q.store.run(t.inputs(b"c", 0)) == ([b"", b"\x02"], False)
    q.pass_time(5)
    assert q.ttl("a") == q.ttl("b") == -1, "they stay until it has ended: it may run again"
    q.settle("w", follower, "succeeded")
    assert drain(q) == [] and 0 < q.ttl("a") <= 120_000 and q.ttl("b") > 0
    assert not q.redis.exists(*(q.keys.named(kind, one) for kind in ("followers", "told", "after") for one in "abc"))
    assert not q.redis.exists(q.keys.single("ended"))


@pytest.mark.parametrize("ended_before", [False, True])
@pytest.mark.parametrize("wants", [0, 1, 2])
def test_only_results_that_are_wanted_are_kept(q: Scripts, wants: int, ended_before: bool) -> None:
    q.enqueue("a", "b")
    q.register("w")
    if not ended_before:
        q.enqueue("f", "g", extras=after("a", "b", wants=wants))
    for job in q.take("w"):
        q.settle("w", job, "succeeded", 1000, payload=b"\x01")
    if ended_before:
        q.enqueue("f", "g", extras=after("a", "b", wants=wants))
    followers = drain(q)
    assert sorted(ids(followers)) == ["f", "g"]
    assert [q.ttl(one) == -1 for one in "ab"] == [wants > 0, wants > 1]
    assert [q.store.run(t.inputs(one.id, 0)) for one in followers] == [([b"\x01"] * wants, False)] * 2
    for kept, follower in zip((True, False), followers, strict=True):
        q.settle("w", follower, "failed")
        drain(q)
        assert [q.ttl(one) == -1 for one in "ab"] == [kept and wants > 0, kept and wants > 1]
        assert not q.redis.exists(q.keys.named("after", follower.id.decode()))
    assert 0 < q.ttl("a") <= 120_000


@pytest.mark.parametrize("how", ["fetch", "unpark", "drop"])
def test_one_that_left_its_list_after_its_end_may_be_wanted_and_expires_all_the_same(q: Scripts, how: str) -> None:
    """It was taken for one that still stands in a list, and stayed for good."""
    q.register("w")
    q.enqueue("a")
    if how == "unpark":
        q.store.run(t.pause("task:t"))
        q.take("w")
        q.store.run(t.resume("task:t"))
        q.redis.rpush(q.keys.named("parked", "t"), *(f"x{n}" for n in range(1001)))  # too long to be searched
    q.store.run(t.cancel(["a"], 60))
    assert q.ttl("a") == -1
    if how == "fetch":
        q.take("w")
    elif how == "drop":
        q.store.run(t.drop("queue", "q"))
    else:
        while q.ttl("a") == -1:
            q.store.run(t.unpark("t", []))
    assert 0 < q.ttl("a") <= 60_000
    q.enqueue("f", extras=after("a", on_failure="ignore", wants=1))
    assert q.ttl("a") == -1
    q.settle("w", next(job for job in drain(q) if job.id == b"f"), "succeeded")
    drain(q)
    assert 0 < q.ttl("a") <= 60_000


@pytest.mark.parametrize("end", ["cancelled", "dead and purged", "dead and trimmed", "expired"])
def test_however_it_ends_it_lets_the_results_go(q: Scripts, end: str) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", extras=extras(after=["a"], on_failure="fail", wants=1, expires="+5000"))
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded", payload=b"\x01")
    q.store.run(t.tend())
    assert q.ttl("a") == -1 and q.state("f") == "queued"
    if end == "cancelled":
        q.store.run(t.cancel(["f"], 60))
    elif end == "expired":
        q.pass_time(6)
        q.beat("w")
        q.take("w")
    else:
        q.settle("w", next(job for job in q.take("w") if job.id == b"f"), "dead", 1)
        drain(q)
        assert q.ttl("a") == -1 and q.store.run(t.inputs(b"f", 0)) == ([b"\x01"], False), "it may be requeued"
        q.store.run(t.purge(["f"]) if end.endswith("purged") else t.trim(1e6, 0))
    q.store.run(t.tend())
    assert q.ttl("a") > 0 and not q.redis.exists(q.keys.named("after", "f"), q.keys.single("ended"))


def test_results_come_in_portions_of_bytes_and_numbers(q: Scripts) -> None:
    members = [f"m{n}" for n in range(300)]
    for at in range(0, 300, 100):
        q.enqueue(*members[at : at + 100])
    q.enqueue("f", extras=after(*members[:250], wants=250, more=50))
    assert q.store.run(t.follow("f", 250, 50, members[250:], last=True)) is t.FollowWord.OK
    q.register("w")
    for _ in range(3):
        for job in q.take("w", start=100):
            q.settle("w", job, "succeeded", payload=bytes(int(job.id[1:])))
    read: list[int] = []
    portions = 0
    more = True
    while more:
        values, more = q.store.run(t.inputs(b"f", len(read), 10_000))
        assert len(values) == 1 or sum(map(len, values)) <= 10_000
        read += map(len, values)
        portions += 1
    assert read == list(range(300)) and portions > 4
    assert q.store.run(t.inputs(b"f", 299, 1)) == ([bytes(299)], False), "one always fits"
    assert q.store.run(t.inputs(b"f", 300)) == ([], False) == q.store.run(t.inputs(b"none", 0))


def test_a_job_of_which_more_is_to_come_is_not_decided_about(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", "g", extras=after("a", more=1))
    q.register("w")
    for job in q.take("w"):
        q.settle("w", job, "succeeded" if job.id == b"a" else "failed")
    drain(q)
    assert q.state("f") == "waiting"
    assert q.store.run(t.follow("f", 1, 0, ["b"], last=True)) is t.FollowWord.OK
    assert q.state("f") == "failed" and "did not succeed" in q.job("f")["reason"]
    before = q.snapshot()
    assert q.store.run(t.follow("f", 1, 0, ["b"], last=True)) is t.FollowWord.AGAIN
    assert q.store.run(t.follow("nobody", 1, 0, ["b"], last=True)) is t.FollowWord.AGAIN
    assert q.store.run(t.follow("g", 2, 0, ["b"], last=True)) is t.FollowWord.AGAIN, "another portion is to come first"
    assert q.snapshot() == before
    assert q.store.run(t.follow("g", 1, 0, ["a"], last=True)) is t.FollowWord.OK
    assert ids(drain(q)) == ["g"]


def test_further_jobs_that_nobody_knows_end_it(q: Scripts) -> None:
    q.enqueue("a", "u")
    q.enqueue("f", extras=after("a", wants=1, more=2))
    assert q.store.run(t.follow("f", 1, 1, ["a", "nobody"], last=True)) == Conflict("unknown", "nobody")
    assert q.state("f") == "failed" and "nobody" in q.job("f")["reason"]
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded")
    drain(q)
    assert q.ttl("a") > 0 and not q.redis.exists(q.keys.single("scheduled"), q.keys.single("dependents"))


def test_an_enqueue_that_stops_halfway_ends_after_an_hour(q: Scripts) -> None:
    q.enqueue("a")
    q.enqueue("f", extras=after("a", wants=1, more=300))
    q.enqueue("g", extras=after("f"))
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded")
    q.pass_time(3599)
    q.beat("w")
    drain(q)
    assert q.state("f") == "waiting" and q.ttl("a") == -1
    q.pass_time(2)
    q.beat("w")
    drain(q)
    assert q.state("f") == q.state("g") == "failed" and q.ttl("a") > 0 and q.ttl("f") > 0
    assert not q.redis.exists(q.keys.single("scheduled"), q.keys.single("dependents"), q.keys.named("after", "f"))
