"""lua/note.lua, and outcomes on purpose in lua/settle.lua."""

from __future__ import annotations

from tests.harness import Scripts
from tests.scripts.common import drain, extras, ids
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import NoteWord


def test_expiry_counts_only_until_the_first_start(q: Scripts) -> None:
    q.enqueue("late", "started", "snoozed", extras=extras(expires="+1000"))
    q.register("w")
    q.redis.lrem(q.keys.named("queue", "q"), 0, "late")
    started, snoozed = q.take("w")
    q.redis.lpush(q.keys.named("queue", "q"), "late")
    q.settle("w", started, "interrupted")
    q.settle("w", snoozed, "snoozed", 2000)
    q.pass_time(3)
    q.beat("w")
    assert sorted(ids(drain(q))) == ["snoozed", "started"]
    assert q.state("late") == "expired" and q.ttl("late") > 0
    assert q.job("snoozed")["snoozes"] == "1" and "attempts" not in q.job("snoozed")


def test_notes_are_stored_for_the_owner_alone(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")

    def note(delivery: bytes, kind: str = "checkpoint", value: bytes = b"\x01", id: bytes = b"a") -> NoteWord:
        return q.store.run(t.note("w", id, delivery, kind, value))

    assert note(job.delivery) is note(job.delivery) is NoteWord.OK
    assert note(job.delivery, "progress") is note(job.delivery, "log") is NoteWord.OK
    before = q.snapshot()
    assert note(b"1") is NoteWord.FENCED and note(job.delivery, id=b"none") is NoteWord.GONE
    assert q.snapshot() == before
    q.settle("w", job, "interrupted")
    assert note(job.delivery) is NoteWord.FENCED
    (again,) = q.take("w")
    assert again.checkpoint == b"\x01"


def test_the_ring_of_errors(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    for n in range(7):
        (job,) = q.take("w")
        q.settle("w", job, "retry", payload=b"e%d" % n)
    record = q.job("a")
    assert record["error"] == "e6" and record["failures"] == "7"
    assert sorted(record[f"error:{at}"][-2:] for at in range(4)) == ["e2", "e3", "e4", "e5"]
