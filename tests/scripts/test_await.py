"""lua/await.lua: the end of a job."""

from __future__ import annotations

from tests.harness import Scripts
from tracked_queue import State
from tracked_queue.protocol import transitions as t


def test_await_waiting_ended_gone(q: Scripts) -> None:
    assert q.store.run(t.await_end("a")) is False
    q.enqueue("a")
    assert q.store.run(t.await_end("a")) is True
    assert q.store.run(t.await_end("a")) is True
    q.register("w")
    (job,) = q.take("w")
    with q.redis.pubsub() as listener:
        channel = q.keys.named("ended", "a")
        sharded = hasattr(listener, "ssubscribe") and int(q.redis.info()["redis_version"].split(".")[0]) >= 7
        (listener.ssubscribe if sharded else listener.subscribe)(channel)
        listener.get_message(timeout=5)
        q.settle("w", job, "succeeded", 0, b"\x05")
        get = listener.get_sharded_message if sharded else listener.get_message
        message = get(timeout=5, ignore_subscribe_messages=False)
        assert message is not None and message["data"] == b"succeeded"
    assert q.store.run(t.await_end("a")) == t.Ended(State.SUCCEEDED, b"\x05", "", b"", "t")
