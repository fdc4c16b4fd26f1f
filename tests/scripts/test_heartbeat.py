"""lua/heartbeat.lua and sweep.lua: a fleet that finds something to do does it once."""

from __future__ import annotations

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras


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


def test_a_beat_carries_counters_and_each_portion_counts_once(q: Scripts) -> None:
    q.register("w")
    facts = t.BeatFacts(1, (), [("run 0 a task", 3), ("wait 2 q", 1)])
    for _ in range(3):  # its answer was lost
        assert q.store.run(t.heartbeat("w", TTL, INTERVAL, facts)) is not None
    q.store.run(t.heartbeat("w", TTL, INTERVAL, t.BeatFacts(2, (), [("run 0 a task", 1)])))
    minute, hour = q.now() // 60_000, q.now() // 3_600_000
    for name in (str(minute), f"h{hour}"):
        key = q.keys.named("times", name)
        assert q.redis.hgetall(key) == {b"run 0 a task": b"4", b"wait 2 q": b"1"}
        assert q.redis.pttl(key) > 0


def test_another_lease_has_numbers_of_its_own(q: Scripts) -> None:
    for lease in ("w", "v"):
        q.register(lease)
        q.store.run(t.heartbeat(lease, TTL, INTERVAL, t.BeatFacts(1, (), [("run 0 t", 1)])))
    assert q.redis.hget(q.keys.named("times", str(q.now() // 60_000)), "run 0 t") == b"2"


def test_a_beat_notes_the_start_of_what_had_waited_in_the_instance(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    jobs = q.take("w", start=0, buffer=2)
    q.pass_time(2)
    starts = [(job.id, job.delivery, 500) for job in jobs]
    q.settle("w", jobs[1], "succeeded")
    q.store.run(t.heartbeat("w", TTL, INTERVAL, t.BeatFacts(0, starts, ())))
    assert q.job("a")["started"] == f"{jobs[0].delivery.decode()} {q.now() - 500}"
    assert "started" not in q.job("b"), "it is no longer that delivery's"


def test_the_beat_of_a_lost_lease_counts_nothing(q: Scripts) -> None:
    before = q.snapshot()
    assert q.store.run(t.heartbeat("gone", TTL, INTERVAL, t.BeatFacts(1, (), [("run 0 t", 1)]))) is None
    assert q.snapshot() == before
