"""lua/schedule.lua, and ticks in lua/enqueue.lua."""

from __future__ import annotations

from tests.harness import START_MS, Scripts
from tests.scripts.common import tick
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict


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
