"""A clock that was ahead: rates and schedules."""

from __future__ import annotations

import pytest

from tests.harness import Scripts, request
from tests.scripts.common import extras, ids, limited
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Conflict


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
