"""Who is told when something becomes takeable, by the scripts: docs/explanation/waking.md says what must hold here."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.harness import INTERVAL, TTL, Scripts, request
from tests.redis.test_blame import ids
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.protocol.transitions import End, Refusal, Verdict


def limited(queue: str, name: str, number: int, key: str = "", *, ms: int = 0, turn: str = "") -> bytes:
    """A job of that queue under a limit: a concurrency of so many, or with `ms` a rate."""
    full = f"{name}:{key}" if key else name
    limit: list[Any] = [full, "rate" if ms else "concurrency", number, ms, len(name)]
    return encode_extras({"lane": f"{queue}\n{full}{turn}", "limits": [limit]})


def put(q: Scripts, job: str, queue: str, extras: bytes) -> None:
    assert q.store.run(t.enqueue([request(job, queue=queue, extras=extras)])) == [True]


def opens(q: Scripts) -> list[str]:
    return [item.decode() for item in q.redis.zrange(q.keys.single("opens"), 0, -1)]


def holder(q: Scripts) -> str | None:
    found: bytes | None = q.redis.hget(q.keys.single("timer"), "lease")
    return None if found is None else found.decode()


def comes_to_rest(q: Scripts, lease: str, queue: str) -> None:
    """It asks until there is nothing left, and stands."""
    while reply_jobs(q, lease, queue):
        pass
    q.pop_marker(queue)
    q.timer_marker()


def reply_jobs(q: Scripts, lease: str, queue: str) -> list[str]:
    return ids(q.take(lease, start=1, queues=(queue,)))


# Places of limits


def test_lanes_of_a_queue_that_nobody_serves_hold_up_no_other(q: Scripts) -> None:
    """They waited longest, there are many of them, and nobody ever looks at them."""
    q.register("w")
    put(q, "first", "q", limited("q", "L", 1))
    (running,) = q.take("w", start=1)
    for n in range(30):
        put(q, f"x{n}", "x", limited("x", "L", 1, turn=str(n)))
    q.register("gone")
    for _ in range(40):
        q.take("gone", queues=("x",), start=50)
    q.release("gone", End.INTERRUPTED)
    put(q, "victim", "q", limited("q", "L", 1))
    comes_to_rest(q, "w", "q")
    assert q.settle("w", running, "succeeded") is Verdict.OK
    for _ in range(3):  # the place is offered to x first, and a little later to whoever comes next
        if q.pop_marker() or q.timer_marker():
            found = reply_jobs(q, "w", "q")
            if found:
                break
        q.pass_time(0.02)
        q.beat("w")
    assert found == ["victim"]


def test_a_place_wakes_four_queues_and_then_more_while_it_is_free(q: Scripts) -> None:
    q.register("w")
    put(q, "first", "q0", limited("q0", "L", 1))
    (running,) = q.take("w", start=1, queues=("q0",))
    queues = [f"q{n}" for n in range(1, 11)]
    for queue in queues:
        put(q, f"of-{queue}", queue, limited(queue, "L", 1))
        comes_to_rest(q, "w", queue)
        q.pass_time(0.001)
    q.settle("w", running, "succeeded")
    assert [q.marker(queue) for queue in queues] == [True] * 4 + [False] * 6
    assert opens(q) == ["L"] and q.timer_marker()
    q.pass_time(0.02)
    assert q.store.run(t.tend()) is False
    assert all(q.marker(queue) for queue in queues)
    assert reply_jobs(q, "w", "q7") == ["of-q7"]
    for queue in queues:
        assert reply_jobs(q, "w", queue) == []
    assert opens(q) == [] or q.store.run(t.tend()) is False


def test_a_queue_whose_marker_stands_already_is_not_counted(q: Scripts) -> None:
    """Nobody stands there: four such queues would use up an offer that a fifth one waits for."""
    q.register("w")
    put(q, "first", "q0", limited("q0", "L", 1))
    (running,) = q.take("w", start=1, queues=("q0",))
    for n in range(1, 9):
        put(q, f"of-q{n}", f"q{n}", limited(f"q{n}", "L", 1))
        comes_to_rest(q, "w", f"q{n}")
        q.pass_time(0.001)
        if n <= 7:
            q.store.run(t.enqueue([request(f"plain{n}", queue=f"q{n}")]))
    q.settle("w", running, "succeeded")
    assert q.marker("q8")


def test_queues_take_turns_at_a_place(q: Scripts) -> None:
    """By the last place that they took; of the four that are woken one is the first to ask."""
    chance = random.Random(1)
    queues = ["a", "b", "c", "d", "e", "f"]
    for queue in queues:
        q.register(queue)
        for n in range(20):
            put(q, f"{queue}{n}", queue, limited(queue, "L", 1))
    running = q.take("a", start=1, queues=("a",))[0], "a"
    for queue in queues:
        comes_to_rest(q, queue, queue)
    taken: Counter[str] = Counter()
    for _ in range(60):
        q.settle(running[1], running[0], "succeeded")
        q.pass_time(0.005)
        chance.shuffle(queues)
        for queue in queues:  # whoever is woken asks, and one gets the place
            if q.pop_marker(queue):
                for job in q.take(queue, start=1, queues=(queue,)):
                    running = job, queue
                    taken[queue] += 1
    assert sum(taken.values()) == 60 and max(taken.values()) - min(taken.values()) <= 6, taken


@pytest.mark.parametrize("keys", [1, 200])
def test_a_raised_number_is_seen_at_once(q: Scripts, keys: int) -> None:
    """Also of each limit by key, in portions."""
    q.register("w")
    for n in range(keys):
        for part in "ab":
            put(q, f"{part}{n}", "q", limited("q", "api", 1, key=str(n)))
    while q.take("w", start=250):
        pass
    q.pop_marker()
    assert len(q.listed("processing", "w")) == keys and not q.marker()
    q.store.run(t.register("new", TTL, INTERVAL, {}, {"api": 2}))
    assert q.timer_marker()
    found: set[str] = set()
    for _ in range(30):
        found |= set(ids(q.take("new", start=250)))
    assert found == {f"b{n}" for n in range(keys)}
    assert opens(q) == []
    q.store.run(t.register("old", TTL, INTERVAL, {}, {"api": 1}))
    assert opens(q) == [], "a lowered one holds what is looked at from then on"


def test_a_rate_has_its_time_and_outlives_a_clock_that_was_ahead(q: Scripts) -> None:
    q.register("w")
    for n in range(3):
        put(q, f"j{n}", "q", limited("q", "R", 1, ms=1000))
    assert reply_jobs(q, "w", "q") == ["j0"]
    assert reply_jobs(q, "w", "q") == [] and opens(q) == ["R"]
    reply = q.fetch("w")
    assert reply.next_due == 1.0 and holder(q) == "w"
    q.pass_time(-100)
    q.beat("w")
    assert q.timer_marker(), "what it waits for is no time of this clock"
    for _ in range(12):
        q.take("w", start=0)
        q.pass_time(0.1)
    assert reply_jobs(q, "w", "q") == ["j1"]


def test_nothing_is_left_of_a_limit_that_nobody_waits_for(q: Scripts) -> None:
    q.register("w")
    for n in range(4):
        put(q, f"j{n}", "q", limited("q", "L", 1, key=str(n % 2)))
    while jobs := q.take("w"):
        for job in jobs:
            q.settle("w", job, "succeeded")
    q.take("w")
    left = {key.decode().split(":")[1] for key in q.redis.scan_iter(match=q.keys.tag + ":*", count=10_000)}
    assert not left & {"waiting", "waits", "open", "opens", "about", "waited", "permits", "lanes", "lane", "laned"}, (
        left
    )


def test_a_pause_keeps_open_groups_for_its_end(q: Scripts) -> None:
    q.register("w")
    put(q, "a", "q", limited("q", "L", 1))
    put(q, "b", "q", limited("q", "L", 1))
    (running,) = q.take("w", start=1)
    comes_to_rest(q, "w", "q")
    q.store.run(t.pause("queue:q"))
    q.settle("w", running, "succeeded")
    assert not q.marker() and q.take("w") == []
    q.store.run(t.resume("queue:q"))
    assert q.marker() and ids(q.take("w")) == ["b"]


# What lies in time


def test_one_instance_has_the_timer(q: Scripts) -> None:
    for lease in "ab":
        q.register(lease)
    q.enqueue("late", delay_ms=5000)
    assert q.timer_marker()
    assert q.fetch("a").next_due == 5.0 and holder(q) == "a"
    assert q.fetch("b").next_due is None, "that is the other one's affair"
    q.enqueue("later", delay_ms=9000)
    assert not q.timer_marker() and holder(q) == "a"
    q.enqueue("sooner", delay_ms=1000)
    assert q.timer_marker() and holder(q) is None, "nobody waits for that"
    assert q.fetch("b").next_due == 1.0 and holder(q) == "b"


@pytest.mark.parametrize("end", ["full", "quiet", "refused", "late", "released", "recovered", "nothing left"])
def test_whoever_can_not_call_in_time_gives_the_timer_up(q: Scripts, end: str) -> None:
    q.register("a")
    q.register("b")
    q.enqueue("late", delay_ms=60_000)
    q.timer_marker()
    q.fetch("a")
    assert holder(q) == "a"
    if end == "full":
        q.enqueue("now")
        assert len(q.take("a", start=1)) == 1
    elif end == "quiet":
        q.store.run(t.quiet("a", True))
    elif end == "refused":
        q.redis.hset(q.keys.named("instance", "a"), "quiet", "1")
        assert q.fetch("a") is Refusal.QUIET
    elif end == "late":
        q.pass_time(2 * TTL)
        assert q.fetch("a") is Refusal.LATE
    elif end == "released":
        q.release("a", End.INTERRUPTED)
    elif end == "recovered":
        for _ in range(int(TTL / INTERVAL) + 2):
            q.pass_time(INTERVAL)
            q.beat("b")
        assert q.recover("a").word == "ok"
    else:
        q.store.run(t.cancel(["late"], 1.0))
        q.fetch("a")
        assert holder(q) is None and not q.timer_marker()
        return
    assert holder(q) is None and q.timer_marker()


def test_a_holder_that_does_not_call_is_found_by_the_next_beat_of_any(q: Scripts) -> None:
    q.register("a")
    q.register("b")
    q.enqueue("late", delay_ms=1000)
    q.timer_marker()
    q.fetch("a")
    q.pass_time(1.2)
    q.beat("b")
    assert not q.timer_marker(), "it may be on its way"
    q.pass_time(0.1)
    q.beat("b")
    assert q.timer_marker() and ids(q.take("b")) == ["late"]


def test_with_nobody_standing_a_beat_tells_to_do_what_is_due(q: Scripts) -> None:
    q.register("a")
    q.enqueue("late", delay_ms=1000)
    beat = q.beat("a")
    assert beat is not None and not beat.tend
    q.pass_time(1)
    beat = q.beat("a")
    assert beat is not None and beat.tend
    assert q.store.run(t.tend()) is False and q.state("late") == "queued" and q.marker()


def test_an_end_calls_the_timer_and_not_the_queue_of_the_one_that_ended(q: Scripts) -> None:
    """Nobody may serve that queue."""
    q.register("w")
    put(q, "head", "x", b"")
    q.store.run(t.enqueue([request("after", extras=encode_extras({"after": ["head"], "on_failure": "ignore"}))]))
    q.store.run(t.cancel(["head"], 1.0))
    q.redis.delete(q.keys.named("wake", "x"))
    assert q.timer_marker()
    assert ids(q.take("w")) == ["after"]
