"""What the store remembers: lua/late.lua, lua/act.lua, lua/instances.lua, and the includes history and ends."""

from __future__ import annotations

import msgspec
import pytest

from tests.harness import INTERVAL, START_MS, TTL, Scripts
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.events import FIRST_EVENTS, LAST_EVENTS, left_out, read_events
from tracked_queue.protocol.transitions import LateOutcome, OutcomeKind, Verdict


def lose(q: Scripts, lease: str) -> None:
    """Its lease runs out while another instance beats, and its jobs are moved."""
    q.register("sweeper")
    for _ in range(round(TTL / INTERVAL) + 1):
        q.pass_time(INTERVAL)
        q.beat("sweeper")
    assert q.recover(lease).word == "ok"


def ends(q: Scripts, queue: str = "q") -> list[tuple[str, ...]]:
    return [tuple(entry.split(" ")[1:]) for entry in q.listed("ends", queue)]


def test_a_plain_job_that_succeeds_at_once_pays_nothing(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    assert q.settle("w", job, "succeeded", payload=b"\x01") is Verdict.OK
    assert q.history("a") == [] and "events" not in q.job("a")


@pytest.mark.parametrize("outcome", sorted(set(OutcomeKind) - {OutcomeKind.SUCCEEDED, OutcomeKind.BOUND}))
def test_every_other_outcome_is_in_the_history(q: Scripts, outcome: str) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.pass_time(3)
    kind = OutcomeKind(outcome)
    ran = None if kind in (OutcomeKind.UNSTARTED, OutcomeKind.PARKED) else 2000
    told = t.Outcome(job.id, job.delivery, kind, 1, b"", "why", False, ran)
    for _ in range(2):
        q.store.run(t.settle("w", [told], 120.0))
    (event,) = read_events(q.redis.hgetall(q.keys.record_of("a")))
    assert event == (START_MS + 3000, outcome, job.delivery.decode(), "w", "why", 0 if ran is None else START_MS + 1000)


def test_the_history_keeps_the_first_and_the_last(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    for n in range(50):
        (job,) = q.take("w")
        q.settle("w", job, "interrupted", reason=f"{n}")
        q.pass_time(0.001)
        q.beat("w")
    record = q.redis.hgetall(q.keys.record_of("a"))
    details = [int(event.detail) for event in read_events(record)]
    assert details == [*range(FIRST_EVENTS), *range(50 - LAST_EVENTS, 50)]
    assert left_out(record) == 50 - FIRST_EVENTS - LAST_EVENTS


def test_a_long_detail_is_cut_at_a_character(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "retry", ms=1, reason="é" * 400)
    ((_, _, _, detail),) = q.history("a")
    assert 0 < len(detail) <= 150 and set(detail) == {"é"}


def test_recovery_says_how_the_loss_was_known(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    lose(q, "w")
    assert q.history("a") == [("recovered", job.delivery.decode(), "w", "lost requeued ")]
    (packed,) = q.redis.lrange(q.keys.single("recoveries"), 0, -1)
    ms, lease, label, cause, deadline, died_ms, jobs, dead = msgspec.msgpack.decode(packed)
    assert (ms, lease, label, cause, died_ms, jobs, dead) == (q.now(), "w", "label-w", "lost", 0, 1, 0)
    assert deadline == START_MS + TTL * 1000


def test_a_late_outcome_leaves_a_mark_once(q: Scripts) -> None:
    """Else nobody could explain why the job ran twice."""
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    lose(q, "w")
    (again,) = q.take("sweeper")
    told = LateOutcome(job.id, job.delivery, OutcomeKind.SUCCEEDED, 5000)
    assert q.store.run(t.late("w", [told])) == 1
    assert q.store.run(t.late("w", [told])) == 0 and q.settle("w", job, "succeeded") is Verdict.FENCED
    late = read_events(q.redis.hgetall(q.keys.record_of("a")))[-1]
    assert late == (q.now(), "late", job.delivery.decode(), "w", "succeeded", q.now() - 5000)
    assert q.settle("sweeper", again, "succeeded") is Verdict.OK
    assert [kind for kind, *_ in q.history("a")] == ["recovered", "late"], "nothing but the mark has changed"


def test_no_run_began_before_its_delivery(q: Scripts) -> None:
    """The time for which it ran is rounded, and what told it may have waited while the clock went back."""
    q.enqueue("beat", "retried", "late", "fenced")
    q.register("w")
    beat, retried, late, fenced = q.take("w", buffer=4)
    q.pass_time(1)
    q.beat("w", [(beat.id, beat.delivery, 1001)])
    assert q.job("beat")["started"] == f"{beat.delivery.decode()} {beat.delivery.decode()}"
    q.settle("w", retried, "retry", ms=1, ran_ms=1001)
    lose(q, "w")
    told = LateOutcome(late.id, late.delivery, OutcomeKind.SUCCEEDED, 10**9)
    q.store.run(t.late("w", [told]))
    q.settle("w", fenced, "retry", ms=1, ran_ms=10**9)
    for name, job in (("retried", retried), ("late", late), ("fenced", fenced)):
        events = read_events(q.redis.hgetall(q.keys.record_of(name)))
        (event,) = (event for event in events if event.kind in ("retry", "late"))
        assert event.started_ms == int(job.delivery), name


@pytest.mark.parametrize("kind", [OutcomeKind.SUCCEEDED, OutcomeKind.RETRY, OutcomeKind.FAILED])
def test_a_delivery_that_has_settled_is_not_late(q: Scripts, kind: OutcomeKind) -> None:
    """Its reply was lost, and then its lease: it says so once more."""
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    assert q.settle("w", job, kind, ms=60_000) is Verdict.OK
    before = q.snapshot()
    assert q.store.run(t.late("w", [LateOutcome(job.id, job.delivery, kind, 5)])) == 0
    assert q.snapshot() == before


def test_a_late_outcome_of_no_job_is_not_noted(q: Scripts) -> None:
    before = q.snapshot()
    assert q.store.run(t.late("w", [LateOutcome(b"gone", b"5", OutcomeKind.FAILED, 1)])) == 0
    assert q.snapshot() == before


def test_the_history_says_who_cancelled_and_who_requeued(q: Scripts) -> None:
    q.enqueue("a", "b")
    q.register("w")
    jobs = q.take("w")
    q.store.run(t.cancel(["a"], 60, "ann"))
    assert q.history("a") == [("cancel", jobs[0].delivery.decode(), "w", "ann")]
    q.store.run(t.cancel(["a"], 60, "eve"))
    assert len(q.history("a")) == 1, "to ask again fills no history"
    q.settle("w", jobs[1], "dead", reason="why")
    q.store.run(t.requeue(["b"], "bob"))
    assert [(kind, detail) for kind, _, _, detail in q.history("b")] == [("dead", "why"), ("requeued", "bob")]


def test_the_last_ends_of_a_queue_can_be_listed(q: Scripts) -> None:
    q.enqueue(*"abcdef")
    q.register("w")
    taken = {job.id.decode(): job for job in q.take("w", start=4)}
    for job_id, outcome in (("a", "succeeded"), ("b", "failed"), ("c", "dead"), ("d", "retry")):
        q.settle("w", taken[job_id], outcome, ms=60_000)
    q.store.run(t.cancel(["e"], 60))
    assert ends(q) == [("cancelled", "e"), ("failed", "b"), ("succeeded", "a")]
    assert q.redis.pttl(q.keys.named("ends", "q")) > 0


@pytest.mark.parametrize("kind, kept", [(OutcomeKind.FAILED, 500), (OutcomeKind.SUCCEEDED, 6 * 25)])
def test_the_list_of_ends_is_bounded(q: Scripts, kind: OutcomeKind, kept: int) -> None:
    """Of successes some of each call are enough: a busy queue has thousands a second."""
    q.register("w")
    for n in range(6):
        q.enqueue(*(f"{n}-{m}" for m in range(100)))
        outcomes = [t.Outcome(job.id, job.delivery, kind, 1000, b"", "") for job in q.take("w", start=100)]
        q.store.run(t.settle("w", outcomes, 120.0))
    assert len(ends(q)) == kept and ends(q)[0][1].startswith("5-")


def test_acts_are_kept_the_newest_first_and_bounded(q: Scripts) -> None:
    for n in range(505):
        assert q.store.run(t.act(f"ann{n}", "pause", "{}"))
    kept = q.redis.lrange(q.keys.single("acts"), 0, -1)
    assert len(kept) == 500
    assert msgspec.msgpack.decode(kept[0])[1:3] == ["ann504", "pause"] and msgspec.msgpack.decode(kept[0])[0] == q.now()


def test_instances_are_read_in_pages(q: Scripts) -> None:
    q.enqueue("a")
    for n in range(5):
        q.register(f"w{n}")
        q.pass_time(0.001)
    q.take("w1")
    found = q.store.run(t.instances(["label", "nothing"], 0, 3)) + q.store.run(t.instances(["label", "nothing"], 3, 3))
    assert [(one.lease, one.owned, one.fields) for one in found] == [
        (b"w%d" % n, int(n == 1), [b"label-w%d" % n, None]) for n in range(5)
    ]
    assert found[0].deadline == START_MS + TTL * 1000
