"""The scripts of uniqueness, limits, turns, dependencies, notes and schedules: each word, each refusal, the second run."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from tests.harness import START_MS, Scripts, request
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.request import Request
from tracked_queue.protocol.transitions import CancelWord, Conflict, DeadWord, NoteWord, Verdict


def extras(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def unique(key: str, until: str = "done", conflict: str = "existing", window_ms: int = 0) -> bytes:
    return extras(unique=[key, until, conflict, window_ms])


def limited(name: str, most: int, lane: str = "", kind: str = "concurrency", ms: int = 0) -> bytes:
    return extras(limits=[[name, kind, most, ms, len(name)]], lane=f"q\n{lane or name}")


def after(*ids: str, on_failure: str = "fail", wants: int = 0, more: int = 0) -> bytes:
    return extras(after=ids, on_failure=on_failure, wants=wants, more_after=more)


def ids(jobs: list[t.FetchedJob]) -> list[str]:
    return [job.id.decode() for job in jobs]


def drain(q: Scripts, lease: str = "w") -> list[t.FetchedJob]:
    """Fetch until nothing more comes: the first ones may only tell followers."""
    found: list[t.FetchedJob] = []
    for _ in range(6):
        found += q.take(lease)
    return found


# unique


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


def replacing(*, limit: str = "", **more: Any) -> bytes:
    if limit:
        more |= {"lane": f"q\n{limit}", "limits": [[limit, "concurrency", 1, 0, len(limit)]]}
    return extras(unique=["k", "done", "replace", 0], **more)


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


# limits and turns


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


# dependencies


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


# requeued


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


# outcomes, notes


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


# schedules


def tick(name: str, ms: int, mode: str = "store") -> Request:
    return request(f"cron:{name}:{ms}", extras=extras(tick=[name, ms, mode]))


def test_a_tick_is_stored_once_and_never_one_before_the_last(q: Scripts) -> None:
    """CASE-41."""
    told = q.store.run(t.schedule([("s", "t", "q", "every 1 s")]))
    assert told == q.store.run(t.schedule([("s", "t", "q", "every 1 s")])) == t.Ticks(START_MS, (START_MS,))
    ms = START_MS + 1000
    assert q.store.run(t.enqueue([tick("s", ms), tick("s", ms + 1000)])) == [True, True]
    before = q.snapshot()
    assert q.store.run(t.enqueue([tick("s", ms)])) == [False]
    q.redis.delete(q.keys.named("job", f"cron:s:{ms}"))
    assert isinstance(q.store.run(t.enqueue([tick("s", ms)]))[0], Conflict), "also when its record has expired"
    assert q.store.run(t.schedule([("s", "t", "q", "every 1 s")])).last_ms == (ms + 1000,)
    assert before.keys() - q.snapshot().keys() == {q.keys.named("job", f"cron:s:{ms}").encode()}


def test_a_paused_or_slow_schedule_stores_no_heap_of_ticks(q: Scripts) -> None:
    """CASE-43: ticks go by, and are not made up for."""
    q.store.run(t.schedule([("s", "t", "q", "x")]))
    ms = START_MS
    assert q.store.run(t.enqueue([tick("s", ms + 1, "coalesce")])) == [True]
    for n in range(2, 20):
        assert isinstance(q.store.run(t.enqueue([tick("s", ms + n, "coalesce")]))[0], Conflict)
    q.register("w")
    assert len(q.take("w")) == 1
    assert q.store.run(t.enqueue([tick("s", ms + 20, "coalesce")])) == [True]
    q.store.run(t.pause("schedule:s"))
    assert isinstance(q.store.run(t.enqueue([tick("s", ms + 21)]))[0], Conflict)
    q.store.run(t.resume("schedule:s"))
    assert isinstance(q.store.run(t.enqueue([tick("s", ms + 22, "pass")]))[0], Conflict)
    assert q.store.run(t.schedule([("s", "t", "q", "x")])).last_ms == (ms + 22,)


# lists of which nobody fetches


@pytest.mark.parametrize("kind", ["queue", "lane", "parked"])
def test_ended_jobs_leave_a_list_that_nobody_fetches_from(q: Scripts, kind: str) -> None:
    """They had no expiry, and held up a change of shards for good."""
    jobs = [f"j{n}" for n in range(1200)]
    packed = limited("L", 1, "x") if kind == "lane" else b""
    for at in range(0, 1200, 200):
        q.enqueue(*jobs[at : at + 200], extras=packed)
    q.register("w")
    if kind == "parked":
        q.store.run(t.pause("task:t"))
        while q.take("w"):
            pass
        while q.redis.exists(q.keys.named("queue", "q")):
            q.take("w")
        q.store.run(t.resume("task:t"))
    if kind == "lane":
        (first,) = q.take("w", start=1)
        assert first.id == b"j0" and q.take("w") == [], "its lane waits for the limit"
    for at in range(0, 1200, 200):
        q.store.run(t.cancel(jobs[at : at + 200], 60))
    name = {"queue": "q", "lane": "q\nx", "parked": "t"}[kind]
    rest = {job for job in jobs if q.ttl(job) == -1}
    assert len(rest) >= 1000
    while q.store.run(t.drop(kind, name)):
        pass
    assert not any(q.ttl(job) == -1 for job in rest - {"j0"})
    if kind == "lane":
        q.settle("w", first, "cancelled", 1)
        assert q.take("w") == []
    found = [
        q.keys.named(one, two)
        for one, two in (
            ("queue", "q"),
            ("lane", "q\nx"),
            ("laned", "q"),
            ("lanes", "q"),
            ("waiting", "L"),
            ("parked", "t"),
        )
    ]
    assert not q.redis.exists(*found, q.keys.single("laned"), q.keys.single("parked"))
    assert q.store.run(t.forget("q")) and q.store.run(t.drop(kind, name)) == 0


def test_a_live_job_keeps_what_stands_behind_it(q: Scripts) -> None:
    q.enqueue("a", "live", "b")
    q.store.run(t.cancel(["a", "b"], 60))
    q.redis.rpush(q.keys.named("queue", "q"), "no record")
    assert q.store.run(t.drop("queue", "q")) == 2
    assert (
        q.listed("queue", "q") == ["b", "live"]
        and q.ttl("a") > 0
        and q.state("no record") == ""
        and not q.store.run(t.forget("q"))
    )
    assert q.redis.zcard(q.keys.single("dead")) == 1


# a clock that was ahead


@pytest.mark.parametrize("ahead_s", [60, 3600, 86_400])
def test_a_rate_outlives_a_clock_that_was_ahead(q: Scripts, ahead_s: int) -> None:
    """It was shut for as long as the clock had been ahead."""
    q.register("w")
    q.pass_time(ahead_s)
    q.beat("w")
    q.enqueue("a", "b", "c", extras=limited("R", 1, kind="rate", ms=1000))
    assert ids(q.take("w")) == ["a"] and ids(q.take("w")) == []
    q.pass_time(-ahead_s)
    q.beat("w")
    started: list[int] = []
    for _ in range(40):
        started += [q.now() for _ in q.take("w")]
        q.pass_time(0.1)
        q.beat("w")
    assert len(started) == 2 and started[1] - started[0] >= 1000, "and never more starts than it says"


def test_a_schedule_outlives_a_clock_that_was_ahead(q: Scripts) -> None:
    about = [("s", "t", "q", "every 60 s")]
    q.store.run(t.schedule(about))
    real = q.now()
    q.pass_time(86_400)
    ahead = request("cron-ahead", extras=extras(tick=["s", q.now(), "store"]))
    assert q.store.run(t.enqueue([ahead])) == [True]
    q.now(real + 60_000)
    told = q.store.run(t.schedule(about))
    assert told.last_ms == (q.now(),), "nothing is made up for, and nothing waits a day"
    q.pass_time(60)
    tick = request("cron-next", extras=extras(tick=["s", q.now(), "store"]))
    assert q.store.run(t.enqueue([tick])) == [True]
    again = request("cron-late", extras=extras(tick=["s", q.now() - 1, "store"]))
    assert q.store.run(t.enqueue([again])) == [Conflict("held", "cron-next")]


# followers at bad moments


def ends(q: Scripts, name: str, outcome: str = "dead", queue: str = "q") -> None:
    (job,) = [job for job in q.take("w", queues=(queue,)) if job.id.decode() == name]
    q.settle("w", job, outcome, 1000, reason="why")


def all_told(q: Scripts) -> None:
    while q.store.run(t.tend()):
        pass


def test_an_id_that_lives_again_before_its_followers_were_told(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("f", extras=after("a"))
    ends(q, "a")
    all_told(q)
    q.store.run(t.purge(["a"]))
    q.enqueue("a")
    all_told(q)
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") != "waiting" and not q.redis.exists(q.keys.named("followers", "a"))


@pytest.mark.parametrize("how", ["unknown", "itself", "too late"])
def test_one_of_which_not_all_was_named_does_not_come_back(q: Scripts, how: str) -> None:
    q.register("w", 1e6)
    q.enqueue("a")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", wants=1, more=2))
    if how == "too late":
        q.pass_time(3601)
    else:
        missing = "f" if how == "itself" else "nobody"
        for _ in range(2):  # the second one is a resend
            assert q.store.run(t.follow("f", 1, 0, [missing], last=False)) == Conflict("unknown", missing)
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0
    q.store.run(t.requeue(["a"]))
    all_told(q)
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("a") > 0


def test_what_a_gathering_job_failed_for_is_removed(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a", "b")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", more=1))
    q.store.run(t.purge(["a"]))
    all_told(q)
    assert q.store.run(t.follow("f", 1, 0, ["b"], last=True)) is t.FollowWord.OK
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_one_that_has_run_decides_for_itself_whatever_comes_back(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    ends(q, "a")
    all_told(q)
    q.enqueue("f", extras=after("a", on_failure="ignore"))
    q.store.run(t.requeue(["a"]))
    jobs = {job.id: job for job in drain(q)}
    for name in (b"f", b"a"):
        q.settle("w", jobs[name], "dead", 1, reason="why")
    all_told(q)
    q.store.run(t.requeue(["f"]))
    ends(q, "f", "failed")
    all_told(q)
    q.store.run(t.requeue(["a"]))
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f") == "failed" and q.ttl("f") > 0


def test_a_foreign_key_in_the_way_of_one_follower_costs_no_other_its_turn(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("f1", queue="bad", extras=after("a"))
    q.enqueue("f2", extras=after("a"))
    q.redis.set(q.keys.named("queue", "bad"), "x")
    q.redis.set(q.keys.named("told", "a"), "x")
    ends(q, "a", "succeeded")
    all_told(q)
    assert q.state("f1") == "dead" and "WRONGTYPE" in q.job("f1")["reason"] and q.state("f2") == "queued"
    q.enqueue("b")
    q.enqueue("f3", extras=after("b"))
    q.redis.set(q.keys.named("told", "b"), "x")
    for job in q.take("w"):
        q.settle("w", job, "dead" if job.id == b"b" else "succeeded", 1, reason="why")
    all_told(q)
    assert q.state("f3") == "failed" and not q.redis.exists(q.keys.single("ended"))


def test_a_key_is_freed_by_one_that_failed_came_back_and_failed_in_one_call(q: Scripts) -> None:
    q.register("w")
    q.enqueue("a")
    q.enqueue("b", queue="p")
    q.enqueue("f", extras=extras(after=["a", "b"], on_failure="fail", unique=["k", "done", "existing", 0]))
    ends(q, "a")
    (b,) = q.take("w", queues=("p",))
    all_told(q)
    q.store.run(t.requeue(["a"]))
    q.settle("w", b, "dead", 1, reason="why")
    all_told(q)
    assert q.state("f") == "failed" and not q.redis.exists(q.keys.named("unique", "k"))


def test_a_replace_from_another_queue_holds_nobody_up(q: Scripts) -> None:
    """The holder stays where it is, and its limits are those that the worker gives it there."""
    q.register("w")
    q.enqueue("h", delay_ms=60_000, extras=replacing(limit="L"))
    elsewhere = extras(unique=["k", "done", "replace", 0], lane="p\nL", limits=[["L", "concurrency", 1, 0, 1]])
    assert q.enqueue("r", queue="p", extras=elsewhere) == [Conflict("replaced", "h")]
    q.redis.sadd(q.keys.named("permits", "L"), "someone")
    q.enqueue("plain")
    held, plain = q.take("w")
    assert (held.id, plain.id) == (b"h", b"plain") and not held.bound


def test_a_followed_job_stays_tracked_when_it_is_replaced(q: Scripts) -> None:
    q.register("w")
    q.enqueue("h", delay_ms=60_000, extras=unique("k", "started", "replace"))
    q.enqueue("f", extras=after("h"))
    q.enqueue("r", tracked=False, extras=unique("k", "started", "replace"))
    ends(q, "h", "succeeded")
    all_told(q)
    assert q.state("f") == "queued"
