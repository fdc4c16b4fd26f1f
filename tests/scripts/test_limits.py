"""Limits and turns, in lua/enqueue.lua, fetch.lua and settle.lua."""

from __future__ import annotations

import msgspec
import pytest

from tests.harness import Scripts
from tests.scripts.common import after, drain, extras, ids, limited, unique
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict, Verdict


def test_a_full_limit_holds_its_lane_and_nothing_else(q: Scripts) -> None:
    q.enqueue("a", "b", "c", extras=limited("L", 1))
    q.enqueue("free")
    q.register("w")
    q.register("w2")
    first = q.take("w")
    assert sorted(ids(first)) == ["a", "free"]
    assert q.take("w2") == [] and q.take("w2") == []
    q.pop_marker()
    assert q.take("w2") == [] and not q.marker(), "a limited head sets no marker: nobody spins"
    assert q.redis.zrange(q.keys.named("waiting", "L\nq"), 0, -1) == [b"q\nL"]
    q.settle("w", next(job for job in first if job.id == b"a"), "succeeded")
    assert q.marker() and ids(q.take("w2")) == ["b"]


@pytest.mark.parametrize(
    "outcome", ["succeeded", "failed", "dead", "retry", "snoozed", "interrupted", "unstarted", "parked"]
)
def test_every_outcome_gives_the_permit_back(q: Scripts, outcome: str) -> None:
    q.enqueue("a", "b", extras=limited("L", 1))
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, outcome, 60_000 if outcome in ("retry", "snoozed") else 0)
    assert not q.redis.exists(q.keys.named("permits", "L"))
    assert len(drain(q)) == 1
    assert q.redis.scard(q.keys.named("permits", "L")) == 1


def test_a_crashed_holders_permit_comes_back_with_recovery(q: Scripts) -> None:
    q.enqueue("a", "b", extras=limited("L", 1))
    q.register("w")
    q.register("w2")
    assert ids(q.take("w")) == ["a"]
    q.release("w")
    q.recover("w")
    assert ids(drain(q, "w2")) == ["a"], "the orphan first, within the limit"
    assert q.redis.scard(q.keys.named("permits", "L")) == 1


def test_a_raised_limit_lets_more_lanes_in(q: Scripts) -> None:
    for lane in "abcd":
        q.enqueue(lane, extras=limited("L", 1, lane))
    q.register("w")
    (first,) = drain(q)
    q.enqueue("e", extras=limited("L", 3, "e"))
    q.redis.zadd(q.keys.named("lanes", "q"), {"q\ne": 0})
    (second,) = drain(q)
    assert second.id == b"e", "the new number counts for the new job; the others keep theirs"
    q.settle("w", first, "succeeded")
    assert drain(q) == [] and q.redis.scard(q.keys.named("permits", "L")) == 1
    q.settle("w", second, "succeeded")
    assert len(drain(q)) == 1 and q.redis.scard(q.keys.named("permits", "L")) == 1


def test_lanes_that_know_different_numbers_of_two_limits_end_their_wait(q: Scripts) -> None:
    """The number of the code that started last counts for all; else two lanes could hold each other up for ever."""
    q.store.run(t.register("w", 10.0, 3.0, {"label": "w"}, {"A": 2, "B": 2}))
    pairs = {"x": [["A", "concurrency", 1, 0, 1], ["B", "concurrency", 3, 0, 1]],
             "y": [["A", "concurrency", 3, 0, 1], ["B", "concurrency", 1, 0, 1]]}  # fmt: skip
    for lane, limits in pairs.items():
        q.enqueue(*(f"{lane}{n}" for n in range(3)), extras=extras(limits=limits, lane=f"q\n{lane}"))
    seen: list[str] = []
    for _ in range(6):
        taken = q.take("w")
        assert len(taken) <= 2
        seen += ids(taken)
        for job in taken:
            assert q.settle("w", job, "succeeded") is Verdict.OK
    assert sorted(seen) == ["x0", "x1", "x2", "y0", "y1", "y2"]


def test_a_job_is_bound_by_its_worker_in_one_step(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a", "b", "c")
    a, b, c = q.take("w")
    bounds = msgspec.msgpack.encode(
        {"unique": ["k", "done", "existing", 0], "lane": "q\nL", "limits": [["L", "concurrency", 1, 0, 1]]}
    )
    assert not a.bound
    assert q.settle("w", a, "bound", payload=bounds) is Verdict.OK
    before = q.snapshot()
    assert q.settle("w", a, "bound", payload=bounds) is Verdict.AGAIN
    assert q.snapshot() == before
    assert q.settle("w", b, "bound", payload=bounds) is Verdict.OK
    assert q.state("b") == "cancelled" and "job a holds" in q.job("b")["reason"]
    assert q.enqueue("d", extras=unique("k")) == [Conflict("held", "a")]
    (again,) = drain(q)
    assert again.id == b"a" and again.bound and again.attempts == 0
    assert q.redis.scard(q.keys.named("permits", "L")) == 1
    q.settle("w", again, "succeeded")
    assert q.redis.scard(q.keys.named("permits", "L")) == 0
    assert q.settle("w", c, "bound", payload=bounds) is Verdict.OK, "the key is free again"
    assert ids(drain(q)) == ["c"]


def test_a_strange_entry_among_the_followers_stops_nobody(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.redis.rpush(q.keys.named("followers", "a"), "", b"\xff", "nobody", "1 nobody")
    q.enqueue("b", extras=after("a"))
    (job,) = q.take("w")
    q.settle("w", job, "succeeded")
    assert ids(drain(q)) == ["b"]


def test_a_hundred_thousand_scheduled_jobs_cost_an_idle_fleet_nothing(q: Scripts) -> None:
    """The same calls, heartbeat and fetch, with one scheduled job and with 100,000."""

    def calls() -> dict[str, int]:
        q.redis.config_resetstat()
        assert q.take("w") == [] and q.beat("w") is not None
        stats = q.redis.info("commandstats")
        return {name: entry["calls"] for name, entry in stats.items() if not name.startswith("cmdstat_config")}

    q.register("w")
    q.enqueue("first", delay_ms=3_600_000)
    calls()  # the scripts are loaded
    one = calls()
    for start in range(0, 100_000, 250):
        q.enqueue(*(f"s{n}" for n in range(start, start + 250)), delay_ms=3_600_001)
    q.take("w")
    assert calls() == one


@pytest.mark.parametrize("how", ["in its queue", "while it runs", "in a lost instance"])
def test_a_job_that_comes_after_one_whose_record_is_lost_hears_of_it(q: Scripts, how: str) -> None:
    q.register("w")
    q.register("v")
    q.enqueue("a")
    q.enqueue("b", extras=after("a", on_failure="ignore"))
    (job,) = q.take("w") if how != "in its queue" else (None,)
    q.redis.delete(q.keys.named("job", "a"))
    if how == "while it runs":
        assert job and q.settle("w", job, "succeeded") is Verdict.GONE
    elif job:
        q.release("w")
        q.recover("w")
    assert ids(drain(q, "v")) == ["b"]


def test_a_rate_holds_in_any_window(q: Scripts) -> None:
    q.enqueue(*"abcdefg", extras=limited("R", 2, kind="rate", ms=1000))
    q.register("w")
    assert ids(q.take("w", start=1)) == ["a"]
    q.pass_time(0.4)
    reply = q.fetch("w")
    assert ids(reply.jobs) == ["b"] and reply.next_due == 0.6
    q.pass_time(0.5)
    assert drain(q) == []
    q.pass_time(0.1)
    assert ids(drain(q)) == ["c"], "a second after a, and not a second after b"
    q.pass_time(0.4)
    assert ids(drain(q)) == ["d"]
    q.pass_time(5)
    q.beat("w")
    assert ids(drain(q)) == ["e", "f"], "never more than its number, however long it was quiet"


def test_a_thousand_lanes_that_wait_for_one_rate_are_not_all_looked_at(q: Scripts) -> None:
    for n in range(1000):
        q.enqueue(f"j{n}", extras=limited("R", 1, lane=f"lane{n}", kind="rate", ms=1000))
    q.register("w")
    seen: list[str] = ids(drain(q))
    while q.redis.zcard(q.keys.named("lanes", "q")):
        q.take("w")  # each lane is looked at once, and then waits for the limit
    commands = []
    for _ in range(5):
        q.pass_time(1.0)
        q.beat("w")
        before = q.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        seen += ids(drain(q))
        commands.append(q.redis.info("commandstats")["cmdstat_hmget"]["calls"] - before)
    assert len(set(seen)) == 6, "one a second"
    assert max(commands) < 100


def test_lanes_take_turns(q: Scripts) -> None:
    for n in range(5):
        q.enqueue(f"big{n}", extras=extras(lane="q\nbig"))
    q.enqueue("small0", "small1", extras=extras(lane="q\nsmall"))
    q.register("w")
    order = [ids(q.take("w", start=1))[0] for _ in range(7)]
    assert order == ["big0", "small0", "big1", "small1", "big2", "big3", "big4"]
    assert not q.redis.exists(q.keys.named("lanes", "q"), q.keys.single("laned"), q.keys.named("laned", "q"))


def test_100000_jobs_of_a_limited_key_cost_others_nothing(q: Scripts) -> None:
    """A lane is looked at once, not each of its jobs."""
    q.enqueue("holder", extras=limited("L", 1))
    for start in range(0, 100_000, 250):
        q.enqueue(*(f"x{n}" for n in range(start, start + 250)), extras=limited("L", 1))
    q.register("w")
    drain(q)
    q.redis.config_resetstat()
    q.enqueue(*(f"o{n}" for n in range(10)), extras=limited("O", 100))
    assert len(q.take("w")) == 10
    calls = sum(
        entry["calls"] for name, entry in q.redis.info("commandstats").items() if name != "cmdstat_config|resetstat"
    )
    assert calls < 400


def test_most_of_a_queue_is_kept(q: Scripts) -> None:
    q.enqueue(*"abcd")
    q.register("w")
    reply = q.store.run(t.fetch("w", 1, 10, 0, ["q"], most={"q": 3}))
    assert isinstance(reply, t.Fetched) and ids(reply.jobs) == ["a", "b", "c"] and not reply.more
    assert q.marker(), "others may take the rest"
