"""lua/drop.lua and forget.lua: lists of which nobody fetches."""

from __future__ import annotations

import pytest

from tests.harness import Scripts
from tests.scripts.common import limited
from tracked_queue.protocol import transitions as t


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
