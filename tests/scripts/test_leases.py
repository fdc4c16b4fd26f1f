"""lua/register.lua, heartbeat.lua and release.lua: leases."""

from __future__ import annotations

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Refusal


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
