"""lua/requeue.lua: what a requeued job brings back."""

from __future__ import annotations

import itertools

import pytest

from tests.harness import START_MS, Scripts, request
from tests.scripts.common import after, all_told, drain, extras, ids, limited, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import CancelWord, Conflict, DeadWord


@pytest.mark.parametrize("second", ["succeeded", "dead"])
def test_a_requeue_brings_back_what_had_failed_for_it(q: Scripts, second: str) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", extras=after("a", "b", wants=2))
    q.enqueue("g", extras=after("f"))
    q.enqueue("mend", extras=after("f", on_failure="fallback"))
    q.enqueue("all", extras=after("f", "b", on_failure="ignore"))
    q.register("w")
    a, b = q.take("w")
    q.settle("w", b, "succeeded", payload=b"\x02")
    q.settle("w", a, "dead", 1)
    (mend, everything) = sorted(drain(q), key=lambda job: job.id != b"mend")
    assert (mend.id, everything.id) == (b"mend", b"all")
    assert q.state("f") == q.state("g") == "failed"
    assert q.ttl("f") == q.ttl("g") == q.ttl("b") == -1, "they may be wanted again as long as a is dead"
    q.store.run(t.requeue(["a"]))
    (again,) = drain(q)
    assert again.id == b"a" and q.state("f") == q.state("g") == "waiting"
    assert "reason" not in q.job("f") and "finished_ms" not in q.job("g")
    q.settle("w", again, second, 1, payload=b"\x01" if second == "succeeded" else b"")
    for job in (mend, everything):
        q.settle("w", job, "succeeded")
    back = drain(q)
    if second == "dead":
        assert q.state("f") == q.state("g") == "failed" and not back
        q.store.run(t.requeue(["a"]))
        (again,) = drain(q)
        q.settle("w", again, "succeeded", payload=b"\x01")
        back = drain(q)
    assert ids(back) == ["f"] and q.store.run(t.inputs(b"f", 0)) == ([b"\x01", b"\x02"], False)
    q.settle("w", back[0], "succeeded")
    (last,) = drain(q)
    assert last.id == b"g"
    q.settle("w", last, "succeeded")
    drain(q)
    everyone = ("a", "b", "f", "g", "mend", "all")
    assert all(q.ttl(one) > 0 for one in everyone)
    left = [q.keys.named(kind, one) for kind in ("followers", "told", "after") for one in everyone]
    assert not q.redis.exists(*left, q.keys.single("ended"), q.keys.single("dependents"))


@pytest.mark.parametrize("how", ["purge", "trim"])
def test_what_failed_for_a_job_that_is_removed_has_failed_for_good(q: Scripts, how: str) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", extras=after("a", "b", wants=2))
    q.enqueue("g", extras=after("f"))
    q.register("w")
    a, b = q.take("w")
    q.settle("w", b, "succeeded", payload=b"\x02")
    q.settle("w", a, "dead", 1)
    drain(q)
    assert q.ttl("f") == q.ttl("g") == q.ttl("b") == -1
    q.store.run(t.purge(["a"]) if how == "purge" else t.trim(1e6, 0))
    drain(q)
    assert q.state("f") == q.state("g") == "failed"
    assert q.ttl("f") > 0 and q.ttl("g") > 0 and q.ttl("b") > 0
    left = [q.keys.named(kind, one) for kind in ("followers", "told", "after") for one in "abfg"]
    assert not q.redis.exists(*left, q.keys.single("ended"))


def test_two_that_are_dead_have_both_to_be_requeued(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", extras=after("a", "b"))
    q.register("w")
    for job in q.take("w"):
        q.settle("w", job, "dead", 1)
    drain(q)
    for one, state in (("a", "failed"), ("b", "waiting")):
        q.store.run(t.requeue([one]))
        (job,) = drain(q)
        assert q.state("f") == state
        q.settle("w", job, "succeeded")
    assert ids(drain(q)) == ["f"]


def test_one_that_ends_otherwise_keeps_it_failed(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.enqueue("f", extras=after("a", "b"))
    q.register("w")
    a, b = q.take("w")
    q.settle("w", a, "dead", 1)
    q.settle("w", b, "failed")
    drain(q)
    q.store.run(t.requeue(["a"]))
    (again,) = drain(q)
    assert q.state("f") == "failed", "b has failed for good"
    q.settle("w", again, "succeeded")
    drain(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_what_comes_after_a_dead_job_comes_back_with_it_too(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.settle("w", q.take("w")[0], "dead", 1)
    q.enqueue("f", extras=after("a", wants=1))
    q.enqueue("g", extras=after("a", more=1))
    q.store.run(t.follow("g", 1, 0, ["a"], last=True))
    drain(q)
    assert q.state("f") == q.state("g") == "failed" and q.ttl("f") == -1
    q.store.run(t.requeue(["a"]))
    (again,) = drain(q)
    q.settle("w", again, "succeeded", payload=b"\x01")
    assert sorted(ids(drain(q))) == ["f", "g"] and q.store.run(t.inputs(b"f", 0)) == ([b"\x01"], False)


@pytest.mark.parametrize("ends_before", list(itertools.permutations(["a dead", "b succeeded", "c succeeded"])))
@pytest.mark.parametrize("comes_back", range(4))
def test_it_does_not_matter_when_a_job_was_put_after_others(
    q: Scripts, ends_before: tuple[str, ...], comes_back: int
) -> None:
    """One that comes after some open and some ended jobs is told the same as one that was there before they ended."""
    held = {}

    def happens(event: str) -> None:
        job, end = event.split()
        if end == "requeued":
            assert q.store.run(t.requeue([job])) == [DeadWord.OK]
        else:
            q.settle("w", held[job], end, 1)
        all_told(q)
        held.update({job.id.decode(): job for job in q.take("w")})

    q.register("w")
    q.enqueue("a", "b", "c")
    held = {job.id.decode(): job for job in q.take("w")}
    events = list(ends_before)
    events.insert(max(comes_back, events.index("a dead") + 1), "a requeued")
    later: list[str] = []
    for at, event in enumerate([*events, "a succeeded"]):
        q.enqueue(f"whole{at}", queue="later", extras=after("a", "b", "c", wants=2))
        q.enqueue(f"named{at}", queue="later", extras=after("a", wants=1, more=2))
        q.store.run(t.follow(f"named{at}", 1, 1, ["b", "c"], last=True))
        later += [f"whole{at}", f"named{at}"]
        happens(event)
        first, *others = ([q.job(job).get(name) for name in ("state", "waits", "failed", "revives")] for job in later)
        assert all(other == first for other in others), (event, first, others)
    assert {q.state(job) for job in later} == {"queued"}


def test_a_key_that_somebody_else_has_by_now_keeps_it_failed(q: Scripts) -> None:
    q.enqueue("a")
    q.enqueue("f", extras=extras(after=["a"], on_failure="fail", unique=["k", "done", "existing", 0]))
    q.register("w")
    q.settle("w", q.take("w")[0], "dead", 1)
    drain(q)
    assert q.enqueue("other", extras=unique("k")) == [True]
    q.store.run(t.requeue(["a"]))
    jobs = drain(q)
    assert q.state("f") == "failed"
    for job in jobs:
        q.settle("w", job, "succeeded")
    drain(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_a_beat_says_that_followers_wait_for_a_word(q: Scripts) -> None:
    """With every place taken nobody fetches."""
    q.register("w")
    q.enqueue("a")
    q.enqueue("f", extras=after("a"))
    beat = q.beat("w")
    assert beat is not None and not beat.tend
    q.store.run(t.cancel(["a"], 60))
    beat = q.beat("w")
    assert beat is not None and beat.tend
    assert q.store.run(t.tend()) is False and q.state("f") == "failed"


def test_who_fetches_takes_what_becomes_takeable_by_it(q: Scripts) -> None:
    """The first queue's due job and follower have their place before what waits in the second."""
    q.register("w")
    q.enqueue("a", queue="first")
    q.enqueue("due", queue="first", delay_ms=100)
    q.enqueue("f", queue="first", extras=after("a"))
    q.enqueue("b", queue="second")
    (a,) = q.take("w", queues=("first",), start=1)
    q.settle("w", a, "succeeded")
    q.pass_time(0.1)
    for queue in ("first", "second"):
        q.pop_marker(queue)
    assert sorted(ids(q.take("w", queues=("first", "second"), start=2))) == ["due", "f"]
    assert q.marker("second") and not q.marker("first"), "only for what is left"


@pytest.mark.parametrize(("on_failure", "state"), [("fail", "failed"), ("ignore", "active"), ("fallback", "active")])
@pytest.mark.parametrize("end", ["dead", "cancelled", "expired", "failed"])
def test_an_unsuccessful_end_decides(q: Scripts, on_failure: str, state: str, end: str) -> None:
    q.enqueue("a", extras=extras(expires="+1") if end == "expired" else b"")
    q.enqueue("b", extras=after("a", on_failure=on_failure))
    q.enqueue("c", extras=after("b"))
    q.register("w")
    if end == "cancelled":
        q.store.run(t.cancel(["a"], 1))
    elif end == "expired":
        q.pass_time(0.1)
    else:
        q.settle("w", q.take("w")[0], end, 1)
    drain(q)
    assert q.state("a") == end and q.state("b") == state
    assert q.state("c") == ("failed" if state == "failed" else "waiting"), "it goes on along the chain"


def test_a_fallback_that_is_not_needed_is_cancelled(q: Scripts) -> None:
    q.enqueue("a")
    q.enqueue("b", extras=after("a", on_failure="fallback"))
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded")
    drain(q)
    assert q.state("b") == "cancelled"


def test_a_chain_in_one_batch_and_onto_ended_jobs(q: Scripts) -> None:
    q.enqueue("dead")
    q.register("w")
    q.settle("w", q.take("w")[0], "dead", 1)
    assert q.store.run(
        t.enqueue(
            [request("b", extras=after("dead")), request("c", extras=after("b")), request("d", extras=after("none"))]
        )
    ) == [True, True, Conflict("unknown", "none")]
    drain(q)
    assert q.state("b") == q.state("c") == "failed" and q.state("d") == ""
    assert q.ttl("b") == q.ttl("c") == -1, "they would come back with it"


def test_so_many_followers_a_call(q: Scripts) -> None:
    """CASE-80: bounded work, however many come after one job."""
    q.enqueue("a")
    for start in range(0, 600, 200):
        q.enqueue(*(f"f{n}" for n in range(start, start + 200)), extras=after("a"))
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded")
    states = []
    for _ in range(9):
        q.fetch("w", start=0)
        states.append(sum(q.state(f"f{n}") == "queued" for n in range(600)))
    assert states == [83, 166, 249, 332, 415, 498, 581, 600, 600], "each counts three of 250"


def test_a_waiting_job_is_cancelled_and_its_dependency_does_not_mind(q: Scripts) -> None:
    q.enqueue("a")
    q.enqueue("b", extras=after("a"))
    assert q.store.run(t.cancel(["b"], 1)) == [CancelWord.CANCELLED]
    q.register("w")
    q.settle("w", q.take("w")[0], "succeeded")
    drain(q)
    assert q.state("b") == "cancelled"


def test_a_requeued_dependency_lives_on_and_its_next_end_counts(q: Scripts) -> None:
    q.enqueue("a", "bb")
    q.enqueue("f", extras=after("a", "bb"))
    q.register("w")
    first, second = q.take("w")
    q.settle("w", first, "dead", 1)
    assert q.store.run(t.requeue(["a"])) == [DeadWord.OK]
    drained = drain(q)
    assert ids(drained) == ["a"] and q.state("f") == "waiting" and q.ttl("a") == -1
    q.settle("w", drained[0], "dead", 1)
    q.store.run(t.requeue(["a"]))
    (again,) = q.take("w")
    q.settle("w", again, "succeeded")
    drain(q)
    assert q.state("f") == "waiting", "one of two has ended, however often"
    q.settle("w", second, "succeeded")
    assert ids(drain(q)) == ["f"]


def test_an_id_that_stands_twice_among_the_ended_is_told_once(q: Scripts) -> None:
    q.enqueue("a", "bb")
    q.enqueue("f", extras=after("a", "bb"))
    q.register("w")
    first, _ = q.take("w")
    q.settle("w", first, "succeeded")
    q.redis.rpush(q.keys.single("ended"), "a")
    drain(q)
    assert q.state("f") == "waiting" and q.job("f")["waits"] == "1"


def test_nobody_comes_after_an_untracked_job(q: Scripts) -> None:
    batch = [request("u", tracked=False), request("f", extras=after("u"))]
    assert q.store.run(t.enqueue(batch)) == [True, Conflict("unknown", "u")]
    assert q.store.run(t.enqueue(batch)) == [False, Conflict("unknown", "u")]


def test_a_shared_limit_wakes_every_queue_that_waits(q: Scripts) -> None:
    def shared(queue: str) -> bytes:
        return extras(limits=[["L", "concurrency", 1, 0]], lane=f"{queue}\nL")

    q.enqueue("a", "b", queue="q1", extras=shared("q1"))
    q.enqueue("c", queue="q2", extras=shared("q2"))
    q.register("w")
    (job,) = [job for _ in range(3) for job in q.take("w", queues=("q1", "q2"))]
    q.settle("w", job, "succeeded")
    found = [job for _ in range(3) for job in q.take("w", queues=("q2",))]
    assert ids(found) == ["c"], "nobody serves q1; the place is not kept for it"


def test_a_place_that_is_free_during_a_pause_is_taken_after_it(q: Scripts) -> None:
    q.enqueue("a", "b", extras=limited("L", 1))
    q.register("w")
    (job,) = drain(q)
    q.store.run(t.pause("queue:q"))
    q.settle("w", job, "succeeded")
    assert drain(q) == []
    q.store.run(t.resume("queue:q"))
    assert q.marker() and ids(drain(q)) == ["b"]


def test_a_permit_is_free_after_every_end_of_a_running_job(q: Scripts) -> None:
    """Permits belong to the delivery: a cancelled, a recovered and a dead one give theirs back."""
    for name, end in (("a", "cancel"), ("b", "recover"), ("c", "dead")):
        q.enqueue(name, extras=limited(f"L{name}", 1))
        lease = f"w{name}"
        q.register(lease)
        (job,) = q.take(lease)
        if end == "dead":
            q.settle(lease, job, "dead", 1)
            continue
        if end == "cancel":
            q.store.run(t.cancel([name], 60.0))
            q.settle(lease, job, "interrupted")
        else:
            q.store.run(t.cancel([name], 60.0))
            q.release(lease)
            q.recover(lease)
        assert q.state(name) == "cancelled"
    assert not list(q.redis.scan_iter(match=q.keys.tag.replace("{", "[{]") + ":permits:*", count=10_000))


def test_a_tick_that_is_passed_over_claims_no_key(q: Scripts) -> None:
    q.store.run(t.schedule([("s1", "t", "q", "x"), ("s2", "t", "q", "x")]))
    key = ["k", "done", "existing", 0]
    ticks = [
        request("t1", extras=extras(tick=["s1", START_MS + 1, "pass"], unique=key)),
        request("t2", extras=extras(tick=["s2", START_MS + 1, "store"], unique=key)),
    ]
    assert q.store.run(t.enqueue(ticks)) == [Conflict("held", ""), True]


def test_records_that_make_no_sense_stop_nobody(q: Scripts) -> None:
    q.enqueue("bad", "worse", "good", extras=extras(expires="+100000"))
    q.redis.hset(q.keys.named("job", "bad"), "delivery", "x")
    q.redis.hset(q.keys.named("job", "worse"), "limits", "\xc1")
    q.register("w")
    assert sorted(ids(q.take("w"))) == ["bad", "good", "worse"]
