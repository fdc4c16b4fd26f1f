"""
A server clock that was wrong by an hour or a day, ahead or behind, and is right again (P5): what was counted by it lasts no longer than its
own time from then on.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tests.scripts.common import after, extras, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict

HOUR, DAY = 3600.0, 86_400.0
DELAY_MS = 5_000


def delayed(q: Scripts) -> None:
    q.enqueue("job", delay_ms=DELAY_MS)


def to_be_tried_again(q: Scripts) -> None:
    q.settle("w", q.take("w", queues=("old",))[0], "retry", DELAY_MS, b"\x01", "why")


def snoozed(q: Scripts) -> None:
    q.settle("w", q.take("w", queues=("old",))[0], "snoozed", DELAY_MS)


def to_come_later_after_another(q: Scripts) -> None:
    q.settle("w", q.take("w", queues=("old",))[0], "succeeded")
    q.store.run(t.tend())


def replaced(q: Scripts) -> None:
    q.enqueue("job", delay_ms=1_000, extras=unique("k"))
    assert q.enqueue("other", delay_ms=DELAY_MS, extras=unique("k", conflict="replace")) == [
        Conflict("replaced", "job")
    ]


def gathering(q: Scripts) -> None:
    """An enqueue that stops halfway ends after an hour."""
    q.enqueue("before", queue="none")
    q.enqueue("job", extras=after("before", more=1))


STATES = [delayed, to_be_tried_again, snoozed, to_come_later_after_another, replaced, gathering]


def beats(q: Scripts) -> None:
    """As workers do: they beat, and do what the beat says."""
    for lease in ("w", "other"):
        beat = q.beat(lease)
        assert beat is not None, "no clock ends a lease that is beaten for"
        while beat.tend and q.store.run(t.tend()):
            pass


def passes(q: Scripts, seconds: float) -> None:
    step = INTERVAL if seconds < HOUR / 2 else HOUR / 4
    while seconds > 0:
        q.pass_time(min(step, seconds))
        seconds -= step
        beats(q)


@pytest.fixture
def w(q: Scripts) -> Scripts:
    for lease in ("w", "other"):
        q.register(lease)
    return q


@pytest.mark.parametrize("behind", [False, True], ids=["ahead", "behind"])
@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_delay_lasts_no_longer_than_itself(
    w: Scripts, state: Callable[[Scripts], None], wrong_s: float, behind: bool
) -> None:
    """Told by a clock that was ahead, or by one that was right before it fell behind."""
    if state is to_come_later_after_another:
        w.enqueue("before", queue="old")
        w.enqueue("job", delay_ms=DELAY_MS, extras=after("before"))
    elif state in (to_be_tried_again, snoozed):
        w.enqueue("job", queue="old")
    if not behind:
        w.pass_time(wrong_s)
        beats(w)
    state(w)
    w.enqueue(*(f"far{n}" for n in range(200)), delay_ms=round(1000 * DAY))
    w.enqueue(*(f"too{n}" for n in range(200)), delay_ms=round(1000 * DAY))
    w.pass_time(-wrong_s)
    beats(w)
    is_gathering = state is gathering
    passes(w, HOUR + 1 if is_gathering else DELAY_MS / 1000 + 1)
    if is_gathering:
        assert w.state("job") == "failed"
    else:
        assert [job.id for job in w.take("other", queues=("q", "old"))] == [b"job"]
    assert w.redis.zcard(w.keys.single("scheduled")) == 400, "nothing else became due"
    assert not w.redis.hexists(w.keys.single("timer"), "rewind")


@pytest.mark.parametrize("meanwhile", [False, True], ids=["", "enqueued meanwhile"])
@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
@pytest.mark.parametrize("state", [delayed, replaced, gathering], ids=lambda state: state.__name__)
def test_a_delay_of_a_clock_by_which_nobody_beat_lasts_no_longer_than_itself(
    q: Scripts, state: Callable[[Scripts], None], wrong_s: float, meanwhile: bool
) -> None:
    """Producers had begun, and the fleet had not."""
    state(q)
    q.pass_time(-wrong_s)
    if meanwhile:
        q.enqueue("meanwhile", queue="none", delay_ms=DELAY_MS)
    for lease in ("w", "other"):
        q.register(lease)
    beats(q)
    passes(q, HOUR + 1 if state is gathering else DELAY_MS / 1000 + 1)
    if state is gathering:
        assert q.state("job") == "failed"
    else:
        assert [job.id for job in q.take("other")] == [b"job"]
    assert not q.redis.hexists(q.keys.single("timer"), "rewind")


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_a_time_that_the_caller_named_stays(w: Scripts, wrong_s: float) -> None:
    w.pass_time(wrong_s)
    at = round(w.now() + 1000 * 2 * DAY)
    w.enqueue("job", due_ms=at)
    w.enqueue("was", delay_ms=DELAY_MS, extras=unique("k"))
    w.enqueue("is", due_ms=at, extras=unique("k", conflict="replace"))
    beats(w)
    w.pass_time(-wrong_s)
    beats(w)
    assert [w.redis.zscore(w.keys.single("scheduled"), job) for job in ("job", "was")] == [at, at]


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_an_hour_that_is_missing_stops_nothing(w: Scripts, wrong_s: float) -> None:
    """The clock was behind, and jumps to what is right: all that was due meanwhile is due now, and nobody dies of it."""
    w.enqueue("job", queue="old")
    to_be_tried_again(w)
    w.enqueue("other", delay_ms=DELAY_MS)
    (running, *_) = w.enqueue("running") and w.take("w")
    w.pass_time(wrong_s)
    beats(w)
    assert w.settle("w", running, "succeeded") is t.Verdict.OK
    assert {job.id for job in w.take("w", queues=("q", "old"))} == {b"job", b"other"}


def test_a_window_that_a_clock_ahead_has_set_lasts_no_longer_than_a_new_one(w: Scripts) -> None:
    w.enqueue("a", extras=unique("k", "window", window_ms=5_000))
    key = w.keys.named("unique", "k")
    w.redis.pexpire(key, round(1000 * DAY))
    before = w.redis.memory_usage(key)
    assert w.enqueue("b", extras=unique("k", "window", window_ms=5_000)) == [Conflict("held", "a")]
    assert 0 < w.redis.pttl(key) <= 5_000 and w.redis.memory_usage(key) == before
    w.redis.pexpire(key, 100)
    w.enqueue("b", extras=unique("k", "window", window_ms=5_000))
    assert w.redis.pttl(key) <= 100, "one that is shorter stays"


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_who_sweeps_is_asked_again(w: Scripts, wrong_s: float) -> None:
    w.register("gone")
    w.pass_time(wrong_s)
    beats(w)  # a hold
    passes(w, 2 * TTL)
    assert w.redis.exists(w.keys.single("sweeper")), "somebody was told"
    w.redis.persist(w.keys.single("sweeper"))  # its expiry is the server's affair, by the same clock
    w.pass_time(-wrong_s)
    told = False
    for _ in range(10):
        w.pass_time(INTERVAL)
        for lease in ("w", "other"):
            beat = w.beat(lease)
            told = told or (beat is not None and beat.run_out)
    assert told


def dies_alone(q: Scripts, job: str) -> None:
    q.enqueue(job)
    assert [one.id.decode() for one in q.take("w")] == [job]
    q.release("w")
    q.recover("w")
    q.numbers["w"] = 0
    q.register("w")


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_who_runs_suspects_takes_fresh_jobs_when_they_have_outlived_their_gates(w: Scripts, wrong_s: float) -> None:
    w.pass_time(wrong_s)
    beats(w)
    dies_alone(w, "long")
    assert [job.id for job in w.take("w")] == [b"long"]
    w.pass_time(-wrong_s)
    passes(w, 2 * TTL)
    w.enqueue("fresh")
    assert [job.id for job in w.take("w")] == [b"fresh"]


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_a_suspect_of_a_clock_ahead_has_waited_for_long(w: Scripts, wrong_s: float) -> None:
    """It would run alone, and for that somebody has to become empty; but not for a day."""
    w.pass_time(wrong_s)
    beats(w)
    dies_alone(w, "a")
    w.enqueue("b")
    assert [job.id for job in w.take("other", mode=t.Mode.NONE)] == [b"b"]
    w.release("other")
    w.recover("other")
    w.numbers["other"] = 0
    w.register("other")
    assert [job.id for job in w.take("w", mode=t.Mode.ONLY)] == [b"a"]
    w.pass_time(-wrong_s)
    passes(w, 2 * TTL)
    assert [job.id for job in w.take("w", mode=t.Mode.ONLY)] == [b"b"]


@pytest.mark.parametrize("wrong_s", [HOUR, DAY])
def test_somebody_becomes_empty_for_a_suspect_though_a_clock_ahead_has_named_another(
    w: Scripts, wrong_s: float
) -> None:
    w.enqueue("long")
    assert len(w.take("w")) == 1
    w.enqueue("suspect")
    w.take("other")
    w.release("other")
    w.recover("other")
    w.redis.set(w.keys.single("draining"), f"{w.now() + round(wrong_s * 1000)} other")
    w.numbers["other"] = 0
    w.register("other")
    passes(w, 90)  # it died alone, so that it lets others go first for 20 s
    w.enqueue("fresh")
    reply = w.fetch("w")
    assert reply.jobs == [] and reply.held > 0


def test_an_expiry_counts_from_its_enqueue(w: Scripts) -> None:
    """It is no delay, and nobody knows which clock was right: what was to start within a minute by the clock of then does."""
    w.enqueue("job", extras=extras(expires="+60000"))
    w.pass_time(-DAY)
    beats(w)
    assert [job.id for job in w.take("w")] == [b"job"]


def test_a_sweep_that_a_clock_ahead_began_is_gone_on_with(w: Scripts) -> None:
    """The sweeper died over a list of more than a portion."""
    w.enqueue(*(f"job{n}" for n in range(6)))
    w.take("w", start=6)
    w.release("w")
    w.pass_time(HOUR)
    assert [w.recover("w", n=2, owner=owner).word for owner in ("one", "another")] == ["ok", "busy"]
    w.pass_time(-HOUR)
    assert w.recover("w", n=2, owner="another").word == "ok"
