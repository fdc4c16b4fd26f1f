"""lua/layout.lua and close.lua: the number of shards."""

from __future__ import annotations

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue import StoreRefusedError
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras


def test_the_number_of_shards_is_set_once_and_changed_only_from_what_it_was(q: Scripts) -> None:
    assert q.store.run(t.layout("", "3")) == "3" == q.store.run(t.layout("", "3"))
    assert q.store.run(t.layout("", "4")) == "3", "asking changes nothing"
    assert q.store.run(t.layout("5", "4")) == "3", "it is not what the change is from"
    assert q.store.run(t.layout("3", "3>4")) == "3>4" == q.store.run(t.layout("3", "3>4")), "the same again"
    assert q.store.run(t.layout("3>4", "4")) == "4"


def test_a_namespace_from_before_there_were_shards_has_one(q: Scripts) -> None:
    q.enqueue("a")
    assert q.store.run(t.layout("", "3")) == "1"
    assert q.store.run(t.layout("", "1")) == "1"


@pytest.mark.parametrize("state", ["queued", "scheduled", "waiting", "active", "dead", "parked", "registered"])
def test_a_shard_that_holds_something_is_not_closed(q: Scripts, state: str) -> None:
    q.store.run(t.register("w", TTL, INTERVAL, {}))
    assert q.store.run(t.close("close")) == "instances"
    if state == "scheduled":
        q.enqueue("a", delay_ms=60_000)
    elif state != "registered":
        q.enqueue("a")
    if state == "waiting":
        q.enqueue("b", extras=encode_extras({"after": ["a"], "on_failure": "fail"}))
        q.redis.delete(q.keys.named("queue", "q"))
    if state in ("active", "dead", "parked"):
        (job,) = q.take("w")
        if state != "active":
            q.settle("w", job, state, 1 if state == "dead" else 0)
    if state != "active":
        q.store.run(t.release("w", t.End.INTERRUPTED))
    busy = q.store.run(t.close("close"))
    named = {"queued": "queue q", "waiting": "dependents", "active": "instances", "registered": ""}.get(state, state)
    assert busy == named
    closed = state == "registered"
    assert q.redis.sismember(q.keys.single("paused"), "closed") == closed
    for key in q.redis.scan_iter(match="*:job:*"):
        if q.keys.tag in key.decode():
            q.redis.delete(key)  # what the test left on purpose


def test_nothing_gets_into_a_closed_shard(q: Scripts) -> None:
    assert q.store.run(t.close("close")) == "" == q.store.run(t.close("close"))
    with pytest.raises(StoreRefusedError, match="another number of shards"):
        q.enqueue("a")
    with pytest.raises(StoreRefusedError, match="another number of shards"):
        q.store.run(t.register("w", TTL, INTERVAL, {}))
    assert not q.redis.exists(q.keys.named("job", "a")) and not q.redis.exists(q.keys.single("instances"))
    assert q.store.run(t.close("open")) == ""
    q.enqueue("a")
