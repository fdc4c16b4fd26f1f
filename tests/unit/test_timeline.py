"""operator/timeline.py: where a job's time went."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tracked_queue.model.cipher import Cipher
from tracked_queue.operator.timeline import pauses_of, segments_of
from tracked_queue.reports.jobs import make_info
from tracked_queue.reports.memory import Act

START = datetime(2030, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def act(action: str, what: str, seconds: float) -> Act:
    return Act(at=after(seconds), by="ann", action=action, facts={"what": what, "changed": True})


def info(queue: str = "mail") -> object:
    ms = str(round(START.timestamp() * 1000)).encode()
    return make_info(
        "a", {b"state": b"queued", b"queue": queue.encode(), b"task": b"t", b"queued_ms": ms}, None, Cipher([])
    )


def test_a_pause_is_told_apart_from_the_rest_of_a_wait() -> None:
    acts = [
        act("pause", "task:t", 90),
        act("resume", "queue:mail", 60),
        act("pause", "queue:mail", 20),
        act("pause", "queue:other", 1),
    ]
    job = info()
    parts, total = segments_of(job, (), after(100), pauses_of(job, acts, after(100)))  # type: ignore[arg-type]
    assert [(part.what, part.seconds) for part in parts] == [
        ("queue", 20),
        ("paused", 40),
        ("queue", 30),
        ("paused", 10),
    ]
    assert total == 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pause", "resume"]), st.sampled_from(["queue:mail", "task:t"]), st.integers(-50, 150)
        ),
        max_size=12,
    )
)
def test_whatever_people_did_the_parts_sum_to_the_total(did: list[tuple[str, str, int]]) -> None:
    acts = [act(*one) for one in sorted(did, key=lambda one: -one[2])]
    job = info()
    parts, total = segments_of(job, (), after(100), pauses_of(job, acts, after(100)))  # type: ignore[arg-type]
    assert round(sum(part.seconds for part in parts), 6) == total == 100 and all(part.seconds > 0 for part in parts)
