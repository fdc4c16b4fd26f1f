"""What the scripts do where something is wrong around them: no rights, no memory, no record, too much at once."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pytest

import redis
from tests.harness import TTL, Scripts
from tracked_queue import ResultLeftOutError, StoreFullError
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.cipher import Cipher
from tracked_queue.producer.results import value_of
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import CancelWord, Fate, Refusal, Verdict


@pytest.fixture
def small_server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.close()


@pytest.fixture
def full(small_server: RedisServer) -> Iterator[Scripts]:
    """A server at maxmemory (noeviction) that holds queued, active, scheduled, cancelled and dead jobs."""
    q = Scripts(small_server.url, "full")
    q.register("w")
    q.register("gone")
    q.enqueue(*(f"a{n}" for n in range(4)))
    q.enqueue("due", delay_ms=1)
    q.enqueue("waited")
    yield q
    q.close()


def fill(q: Scripts) -> None:
    q.redis.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        q.redis.set("x", "y")


def test_a_full_redis_takes_no_new_jobs_and_lets_stored_ones_end(full: Scripts) -> None:
    """Beats, fetches, settles, recovery and the operator's calls go through, or nothing would drain (noeviction)."""
    q = full
    taken = q.take("gone", start=1)
    q.pass_time(0.1)
    fill(q)
    with pytest.raises(StoreFullError):
        q.enqueue("new")
    assert not q.job("new")
    assert q.beat("w") is not None
    first, second, third, *_ = q.take("w")
    assert q.settle("w", first, "succeeded", payload=b"\x01") is Verdict.OK
    assert q.settle("w", second, "retry", 10, b"e") is Verdict.OK
    assert q.settle("w", third, "dead", 0, b"e", "why") is Verdict.OK
    q.fetch("w", number=1)
    assert q.fetch("w", number=9) and q.fetch("w", number=3) is Refusal.STALE
    numbers = iter(range(10, 20))
    while q.fetch("w", number=next(numbers)).jobs:
        pass  # the last one finds nothing, and still writes down its number
    assert q.store.run(t.await_end("waited")) is True
    assert q.store.run(t.cancel(["waited"], 60.0)) != [CancelWord.GONE]
    assert q.release("gone") and q.recover("gone").word == "ok"
    assert q.register("another")
    assert q.store.run(t.quiet("another", True)) and q.fetch("another") is Refusal.QUIET
    assert q.store.run(t.pause("queue:q")) and q.store.run(t.resume("queue:q"))
    assert q.store.run(t.purge([third.id.decode()])) == [t.DeadWord.OK]
    assert not q.release("another")
    assert len(taken) == 1


def test_a_full_redis_takes_ends_and_not_what_would_make_it_fuller(full: Scripts) -> None:
    """Results, errors and checkpoints were exempt from its limit as well: 60 MB became 423 MB."""
    q = full
    jobs = q.take("w", start=4)
    fill(q)
    large = b"\xc5\x10\x00" + b"x" * 4096
    assert q.settle("w", jobs[0], "succeeded", 1000, large) is Verdict.OK
    assert q.settle("w", jobs[1], "succeeded", 1000, b"\x01") is Verdict.OK
    assert q.settle("w", jobs[2], "retry", 10, large) is Verdict.OK
    assert q.settle("w", jobs[3], "dead", 1, large, "why") is Verdict.OK
    first, second, third, fourth = (q.job(job.id.decode()) for job in jobs)
    assert first["state"] == "succeeded" and first["left_out"] == str(len(large)) and "result" not in first
    assert second["result"] == "\x01" and "left_out" not in second
    assert third["state"] == "scheduled" and "error" not in third
    assert fourth["state"] == "dead" and fourth["reason"] == "why" and "error" not in fourth
    ended = q.store.run(t.await_end(jobs[0].id.decode()))
    assert isinstance(ended, t.Ended) and ended.left_out == len(large)
    with pytest.raises(ResultLeftOutError, match="4,099 bytes"):
        value_of("id", ended, None, Cipher([]))
    running = q.take("w", start=1)[0]
    with pytest.raises(StoreFullError):
        q.store.run(t.note("w", running.id, running.delivery, "checkpoint", large))
    assert "checkpoint" not in q.job(running.id.decode())
    q.redis.config_set("maxmemory", 0)
    q.pass_time(1)
    again = next(job for job in q.take("w") if job.id == jobs[2].id)
    assert q.settle("w", again, "succeeded", 1000, large) is Verdict.OK
    ended = q.store.run(t.await_end(again.id.decode()))
    assert isinstance(ended, t.Ended) and ended.result == large and not ended.left_out


def test_a_user_without_channels_breaks_no_transition(small_server: RedisServer) -> None:
    """Redis 7 gives new users no channels: the word to a waiter is lost, the job's end is not."""
    q = Scripts(small_server.url, "acl")
    q.redis.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "resetchannels")
    narrow = Scripts(small_server.url.replace("//", "//narrow:pw@"), "acl")
    try:
        q.enqueue("a", "b", "c")
        for id in "abc":
            q.store.run(t.await_end(id))
        narrow.register("w")
        jobs = narrow.take("w")
        assert narrow.settle("w", jobs[0], "succeeded") is Verdict.OK
        narrow.store.run(t.cancel(["c"], 60.0))
        narrow.release("w")
        assert {job.id: job.fate for job in narrow.recover("w").jobs} == {"b": Fate.REQUEUED, "c": Fate.CANCELLED}
    finally:
        narrow.close()
        q.close()


def test_recover_finds_the_hold_itself(q: Scripts) -> None:
    """CASE-23: after an outage a sweep may come before the first beat."""
    q.enqueue("a")
    q.register("a1")
    q.register("b1")
    q.take("a1")
    q.pass_time(6 * TTL)
    assert q.recover("a1").word == "hold"
    assert q.recover("a1").word == "hold"
    assert q.beat("a1") is not None and q.beat("b1") is not None
    assert q.recover("a1").word == "alive"


def test_one_fetch_looks_at_a_bounded_number_of_cancelled_jobs(q: Scripts) -> None:
    queues = tuple(f"q{n}" for n in range(6))
    for queue in queues:
        ids = [f"{queue}-{n}" for n in range(100)]
        q.enqueue(*ids, queue=queue)
        q.store.run(t.cancel(ids, 60.0))
    q.enqueue("good", queue="q5")
    q.register("w")
    for _ in range(5):
        before = sum(q.redis.llen(q.keys.named("queue", queue)) for queue in queues)
        reply = q.fetch("w", start=250, queues=queues)
        after = sum(q.redis.llen(q.keys.named("queue", queue)) for queue in queues)
        assert before - after <= 301
        if reply.jobs:
            assert [job.id for job in reply.jobs] == [b"good"]
            break
    else:
        raise AssertionError("the good job was never reached")


def test_an_id_twice_in_a_queue_is_delivered_once(q: Scripts) -> None:
    q.enqueue("j")
    q.redis.lpush(q.keys.named("queue", "q"), "j")
    q.register("w")
    (job,) = q.take("w")
    assert q.listed("processing", "w") == ["j"] and q.listed("queue", "q") == []
    q.redis.lpush(q.keys.named("queue", "q"), "j")
    assert q.take("w") == [], "it is active elsewhere"
    assert q.settle("w", job, "succeeded") is Verdict.OK


def test_a_record_without_a_task_is_buried(q: Scripts) -> None:
    q.redis.hset(q.keys.named("job", "odd"), "state", "queued")
    q.redis.lpush(q.keys.named("queue", "q"), "odd")
    q.register("w")
    reply = q.fetch("w")
    assert reply.jobs == [] and reply.buried == ("odd",) and q.state("odd") == "dead"


def test_a_clock_that_falls_back_by_a_few_ttl_is_repaired(q: Scripts) -> None:
    q.register("dead")
    q.now(q.now() - round(5 * TTL * 1000))
    q.register("w")
    assert "dead" in q.store.run(t.sweep(TTL))


def test_a_cancelled_parked_job_expires(q: Scripts) -> None:
    """Also when no instance ever knows its task."""
    q.enqueue("a", task="nobody-knows")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "parked")
    assert q.store.run(t.cancel(["a"], 60.0)) == [CancelWord.CANCELLED]
    assert q.ttl("a") > 0 and q.listed("parked", "nobody-knows") == []
    beat = q.beat("w")
    assert beat is not None and beat.parked == ()


def test_a_parked_id_without_a_record_is_buried(q: Scripts) -> None:
    q.enqueue("a", task="new")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "parked")
    q.redis.delete(q.keys.named("job", "a"))
    assert q.store.run(t.unpark("new", [])) == (0, 0)
    assert q.state("a") == "dead"


def test_a_foreign_key_in_a_records_place_stops_nobody(q: Scripts) -> None:
    """CASE-50: it is treated like a missing record, in every script that meets it; the good job behind it runs."""
    q.enqueue("a", "b", "c", "good")
    q.register("w")
    first, second, third = q.take("w", start=3)
    for id in "abc":
        q.redis.delete(q.keys.named("job", id))
        q.redis.set(q.keys.named("job", id), "foreign")
    assert q.settle("w", first, "succeeded") is Verdict.GONE and "a" not in q.listed("processing", "w")
    q.release("w")
    assert {job.fate for job in q.recover("w").jobs} == {Fate.GONE}
    q.redis.rpush(q.keys.named("queue", "q"), "b")
    q.redis.zadd(q.keys.single("scheduled"), {"c": 1})
    q.register("v")
    found = [*q.take("v"), *q.take("v")]
    assert [job.id for job in found] == [b"good"]
    assert q.redis.get(q.keys.named("job", "b")) == b"foreign", "it is left alone"
    assert all(id.startswith(b"garbage:") for id in q.redis.zrange(q.keys.single("dead"), 0, -1))
    assert second.id == b"b" and third.id == b"c"


def test_what_never_ran_spent_no_attempt(q: Scripts) -> None:
    q.enqueue("a")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, "dead", 0, b"e", "its arguments don't fit")
    assert q.job("a")["attempts"] == "0"


def test_without_the_right_to_ask_whether_redis_is_full_it_is_not(q: Scripts) -> None:
    """Any refusal was taken for a full Redis: after an upgrade with the rights of before results were left out."""
    source = (files("tracked_queue") / "lua/include/full.lua").read_text()
    q.redis.execute_command("ACL", "SETUSER", "before", "on", "nopass", "~*", "&*", "+@all", "-setrange")
    try:
        own = q.redis.client()
        own.execute_command("AUTH", "before", "x")
        assert own.eval(f"local T = KEYS[1]\n{source}\nreturn is_full() and 1 or 0", 1, q.keys.tag) == 0
        own.execute_command("CLIENT", "ID")
        own.connection.disconnect()
    finally:
        q.redis.execute_command("ACL", "DELUSER", "before")
