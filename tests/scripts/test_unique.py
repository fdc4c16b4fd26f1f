"""Unique keys, in lua/enqueue.lua, fetch.lua and settle.lua."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import START_MS, Scripts, request
from tests.scripts.common import drain, extras, replacing, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict, DeadWord, Verdict


def test_a_held_key_answers_with_its_holder_and_writes_nothing(q: Scripts) -> None:
    assert q.enqueue("a", extras=unique("k")) == [True]
    before = q.snapshot()
    assert q.enqueue("b", extras=unique("k")) == [Conflict("held", "a")]
    assert q.enqueue("a", extras=unique("k")) == [False], "a resend is known by its id"
    assert q.snapshot() == before
    assert q.store.run(t.enqueue([request("c", extras=unique("m")), request("d", extras=unique("m"))])) == [
        True,
        Conflict("held", "c"),
    ], "in one batch too"


@pytest.mark.parametrize("until", ["started", "done"])
def test_the_key_is_free_from_its_moment_on_and_kept_by_recovery(q: Scripts, until: str) -> None:
    """CASE-48: compare and delete; the orphan runs again at once, and no second one slips in."""
    q.enqueue("a", extras=unique("k", until))
    q.register("w")
    (job,) = q.take("w")
    free = until == "started"
    assert q.enqueue("b", extras=unique("k", until)) == [True if free else Conflict("held", "a")]
    q.release("w", t.End.INTERRUPTED)
    q.recover("w")
    q.register("w2")
    again = next(job for job in q.take("w2") if job.id == b"a")
    assert q.enqueue("c", extras=unique("k", until)) == [True if free else Conflict("held", "a")]
    assert q.settle("w", job, "succeeded") is Verdict.FENCED
    assert q.settle("w2", again, "succeeded") is Verdict.OK
    assert q.enqueue("d", extras=unique("k", until)) == ([Conflict("held", "c")] if free else [True])


def test_a_key_whose_holder_is_gone_or_names_another_key_is_not_held(q: Scripts) -> None:
    q.redis.set(q.keys.named("unique", "k"), "nobody")
    assert q.enqueue("a", extras=unique("k")) == [True]
    q.redis.set(q.keys.named("unique", "m"), "a")
    assert q.enqueue("b", extras=unique("m")) == [True]


def test_a_job_frees_only_its_own_key(q: Scripts) -> None:
    q.enqueue("a", extras=unique("k"))
    q.register("w")
    (job,) = q.take("w")
    q.redis.set(q.keys.named("unique", "k"), "another")
    q.settle("w", job, "succeeded")
    assert q.redis.get(q.keys.named("unique", "k")) == b"another"


def test_replace_gives_the_waiting_job_the_new_arguments(q: Scripts) -> None:
    q.enqueue("a", extras=unique("k", conflict="replace"), delay_ms=1000)
    q.pass_time(0.5)
    again = request("b", extras=unique("k", conflict="replace"), delay_ms=1000, args=b"\x91\x02")
    for _ in range(2):
        assert q.store.run(t.enqueue([again])) == [Conflict("replaced", "a")]
    assert (
        q.job("a")["due_ms"] == str(START_MS + 1500)
        and q.redis.zscore(q.keys.single("scheduled"), "a") == START_MS + 1500
    )
    q.pass_time(1)
    q.register("w")
    (job,) = q.take("w")
    assert job.args == b"\x91\x02"
    assert q.store.run(t.enqueue([again])) == [Conflict("held", "a")], "it has started"


@pytest.mark.parametrize("named", [False, True])
def test_a_debounce_is_bounded(q: Scripts, named: bool) -> None:
    """However often it is replaced, it is due 3 s after the first enqueue."""
    bound = extras(unique=["k", "done", "replace", 0, 3000])
    q.enqueue("a", extras=bound, delay_ms=1000)
    for at in (1, 2, 3, 4, 5):
        q.pass_time(0.5)
        now = START_MS + 500 * at
        due: dict[str, Any] = {"due_ms": now + 1000} if named else {"delay_ms": 1000}
        assert q.store.run(t.enqueue([request(f"b{at}", extras=bound, args=bytes([0x91, at]), **due)])) == [
            Conflict("replaced", "a")
        ]
        wanted = min(now + 1000, START_MS + 3000)
        assert q.job("a")["due_ms"] == str(wanted) and q.redis.zscore(q.keys.single("scheduled"), "a") == wanted
    q.pass_time(0.5)
    # It is due by now, and the next one brings it into its queue.
    assert q.store.run(t.enqueue([request("c", extras=bound, args=b"\x91\x09", delay_ms=1000)])) == [
        Conflict("replaced", "a")
    ]
    assert q.state("a") == "queued" and "due_ms" not in q.job("a")
    q.register("w")
    (job,) = q.take("w")
    assert job.args == b"\x91\x09"


def test_a_bound_holds_for_the_first_enqueue_too(q: Scripts) -> None:
    q.enqueue("a", extras=extras(unique=["k", "done", "replace", 0, 3000]), delay_ms=600_000)
    assert q.job("a")["due_ms"] == str(START_MS + 3000)


@pytest.mark.parametrize("how", ["retry", "snoozed", "interrupted", "recovered", "running"])
def test_what_has_begun_is_not_replaced_wherever_it_stands(q: Scripts, how: str) -> None:
    """Between two attempts it stands as one that has not begun does: it went on with other arguments and its old checkpoint."""
    q.enqueue("a", extras=replacing())
    q.register("w")
    (job,) = q.take("w")
    q.store.run(t.note("w", job.id, job.delivery, "checkpoint", b"half"))
    if how == "recovered":
        q.release("w")
        q.recover("w")
    elif how != "running":
        q.settle("w", job, how, 5000 if how in ("retry", "snoozed") else 0)
    before = q.snapshot()
    assert q.enqueue("b", extras=replacing(), args=b"\x91\x02") == [Conflict("held", "a")]
    assert q.snapshot() == before


@pytest.mark.parametrize("delay_ms", [0, 60_000])
@pytest.mark.parametrize("was", ["scheduled", "waiting", "parked", "queued", "in a lane"])
def test_a_replaced_job_is_as_the_new_one_would_be(q: Scripts, was: str, delay_ms: int) -> None:
    more: dict[str, Any] = {"expires": "+5000"}
    if was == "waiting":
        q.enqueue("first")
        more |= {"after": ["first"], "on_failure": "fail"}
    q.enqueue(
        "a",
        extras=replacing(limit="old" if was != "queued" else "", **more),
        delay_ms=3_600_000 if was in ("scheduled", "waiting") else None,
    )
    q.register("w")
    if was == "parked":
        q.store.run(t.pause("task:t"))
        q.take("w")
        q.store.run(t.resume("task:t"))
        assert q.state("a") == "parked"
    assert q.enqueue("b", extras=replacing(limit="new"), args=b"\x91\x02", delay_ms=delay_ms or None) == [
        Conflict("replaced", "a")
    ]
    record = q.job("a")
    assert record["args"] == "\ufffd\x02" and "expires_ms" not in record
    later = bool(delay_ms) and was in ("scheduled", "waiting")
    if was == "waiting":
        assert record.get("delay_ms") == (str(delay_ms) if later else None)
        q.settle("w", q.take("w")[0], "succeeded")
        q.store.run(t.tend())
    elif was == "scheduled":
        assert record["state"] == ("scheduled" if later else "queued")
    if later:
        assert q.redis.zscore(q.keys.single("scheduled"), "a") == START_MS + delay_ms
        q.pass_time(60)
        q.beat("w")
    q.store.run(t.unpark("t", []))
    (job,) = drain(q)
    assert job.args == b"\x91\x02" and (job.bound or was == "queued")
    held = [name for name in ("old", "new") if q.redis.exists(q.keys.named("permits", name))]
    assert held == ([] if was == "queued" else ["new"]), "in the plain list a worker binds it"
    q.settle("w", job, "succeeded")
    lanes = [q.keys.named("lane", f"q\n{limit}") for limit in ("old", "new")]
    permits = [q.keys.named("permits", limit) for limit in ("old", "new")]
    left = [*lanes, *permits, q.keys.named("lanes", "q"), q.keys.named("laned", "q"), q.keys.single("laned")]
    assert not q.redis.exists(*left, q.keys.single("scheduled"))


def test_a_window_ends_by_itself(q: Scripts) -> None:
    assert q.enqueue("a", extras=unique("k", "window", window_ms=60_000)) == [True]
    assert 0 < q.redis.pttl(q.keys.named("unique", "k")) <= 60_000
    q.store.run(t.cancel(["a"], 1))
    assert q.enqueue("b", extras=unique("k", "window", window_ms=60_000)) == [Conflict("held", "a")]


def test_a_dead_job_comes_back_only_if_its_key_is_free(q: Scripts) -> None:
    q.enqueue("a", extras=unique("k"))
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "dead", 1)
    assert q.enqueue("b", extras=unique("k")) == [True]
    assert q.store.run(t.requeue(["a"])) == [DeadWord.HELD]
    q.store.run(t.cancel(["b"], 1))
    assert q.store.run(t.requeue(["a"])) == [DeadWord.OK]
    assert q.enqueue("c", extras=unique("k")) == [Conflict("held", "a")], "it holds the key again"
