"""lua/recover.lua: the jobs of a lost instance come back."""

from __future__ import annotations

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue import InvariantError
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.protocol.transitions import CancelWord, Fate


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


def test_named_jobs_move_and_the_others_stay(q: Scripts) -> None:
    """An operator recovers one orphan: the owner is fenced, no other job moves, and the lease goes with the last."""
    q.enqueue("a", "b", "c", "d")
    q.register("dead")
    q.register("w")
    q.take("dead", start=3)
    die(q, "w")
    portion = q.recover("dead", ids=["b", "nothing", "b", "d"])
    assert portion.word == "ok" and portion.remaining == 2
    assert [(job.id, job.fate) for job in portion.jobs] == [("b", Fate.REQUEUED)]
    assert q.beat("dead") is None, "the first write revoked it"
    assert (q.state("a"), q.state("b"), q.state("c")) == ("active", "queued", "active")
    before = q.snapshot()
    assert q.recover("dead", ids=["b"]).jobs == () and q.job("b")["recoveries"] == "1"
    assert q.snapshot() == before, "safe to ask twice"
    assert q.recover("dead", ids=["a", "c"]).remaining == 0
    assert q.recover("dead").word == "gone"
    assert [job.id for job in q.take("w")] == [b"a", b"c", b"b", b"d"]


def test_named_jobs_of_a_live_instance_stay(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    before = q.snapshot()
    assert q.recover("w", ids=["a"]).word == "alive"
    assert q.snapshot() == before


def test_named_jobs_are_moved_beside_a_sweeper(q: Scripts) -> None:
    """They take no lock, and none is in their way."""
    q.enqueue("a", "b", "c", "d", "e")
    q.register("dead")
    q.register("w")
    q.take("dead")
    die(q, "w")
    assert q.recover("dead", n=1, owner="sweeper").word == "ok"
    assert q.recover("dead", n=1, owner="other").word == "busy"
    left = sorted(q.listed("processing", "dead"))
    assert q.recover("dead", ids=left[:1], owner="operator").remaining == 3
    assert q.recover("dead", n=1, owner="other").word == "busy", "the sweeper still has its lock"
    assert q.recover("dead", n=1, owner="sweeper").remaining == 2


@pytest.mark.parametrize("named", [True, False])
def test_a_named_job_under_suspicion_is_judged_like_the_others(q: Scripts, named: bool) -> None:
    q.enqueue("a")
    q.register("w")
    q.take("w")
    q.release("w")
    assert [job.charges for job in q.recover("w", ids=["a"] if named else []).jobs] == [1]


def test_a_named_job_whose_cancellation_is_asked_for_ends(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    q.take("w")
    q.release("w", t.End.INTERRUPTED)
    assert q.store.run(t.cancel(["a"], 60.0, "ann")) == [CancelWord.REQUESTED]
    assert [job.fate for job in q.recover("w", ids=["a"]).jobs] == [Fate.CANCELLED]
    assert (q.state("a"), q.state("b")) == ("cancelled", "active")


@pytest.mark.parametrize("limited", [False, True])
def test_a_discarded_job_ends_and_frees_what_it_held(q: Scripts, limited: bool) -> None:
    fields = {"extras": encode_extras({"limits": [["n", "concurrency", 1, 0]]})} if limited else {}
    q.enqueue("a", "b", **fields)
    q.register("w")
    assert q.take("w")
    q.release("w", t.End.INTERRUPTED)
    portion = q.recover("w", ids=["a"], discard_by="ann")
    assert [(job.id, job.fate) for job in portion.jobs] == [("a", Fate.CANCELLED)]
    assert q.job("a")["reason"] == "discarded by ann; its instance was lost" and 0 < q.ttl("a") <= 120_000
    assert q.state("b") == ("queued" if limited else "active")
    before = q.snapshot()
    assert q.recover("w", ids=["a"], discard_by="ann").jobs == () and q.snapshot() == before
    if limited:
        q.register("v")
        assert [job.id for job in q.take("v")] == [b"b"], "its place is free"


def test_nothing_is_discarded_of_an_instance_that_is_not_lost(q: Scripts) -> None:
    """Alive, within a hold, or recovered meanwhile: refused before anything is written."""
    q.enqueue("a", "b")
    q.register("w")
    q.register("v")
    q.take("w")
    before = q.snapshot()
    assert q.recover("w", ids=["a"], discard_by="ann").word == "alive"
    assert q.snapshot() == before
    q.pass_time(TTL + 1)
    assert q.recover("w", ids=["a"], discard_by="ann").word == "hold"
    assert "cancel" not in q.job("a") and q.state("a") == "active"
    q.beat("v")
    die(q, "v")
    die(q, "v")
    assert q.recover("w").word == "ok"
    assert q.recover("w", ids=["a"], discard_by="ann").word == "gone" and q.state("a") == "queued"


def test_jobs_that_are_named_one_by_one_are_not_acquitted(q: Scripts) -> None:
    """Whole, all suspects past their gates are accused, since nobody else can have done it; one by one, nobody is cleared."""
    q.enqueue(*(f"j{at}" for at in range(8)))
    q.register("w")
    assert len(q.take("w")) == 8
    q.release("w")
    assert q.recover("w").word == "ok"
    q.register("v")
    held = sorted(job.id.decode() for job in q.take("v"))
    assert len(held) == 2, "a group of a quarter"
    q.pass_time(3600)
    q.beat("v")
    q.release("v")
    assert [job.id for job in q.recover("v", ids=held[:1]).jobs] == held[:1]
    assert q.job(held[0])["pool"] == "2" and q.job(held[0])["deaths"] == "1"


def test_more_ids_than_allowed_are_refused_where_they_are_given() -> None:
    with pytest.raises(InvariantError, match="251 ids"):
        t.recover(
            "w", owner="o", max_recoveries=3, lock_ttl=1, resend_window=1, interval=1, ids=[str(n) for n in range(251)]
        )


def test_names_that_a_lost_lease_does_not_own_write_nothing(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    q.register("v")
    q.take("w")
    die(q, "v")
    before = q.snapshot()
    for discard_by in ("", "ann"):
        portion = q.recover("w", ids=["b", "nothing"], discard_by=discard_by)
        assert (portion.word, portion.jobs, portion.remaining) == ("ok", (), 1)
    assert q.snapshot() == before, "not even the lease was revoked"
