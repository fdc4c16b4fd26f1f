"""producer/storing.py: what is sent, how long and how often, and what an answer or its absence means."""

from __future__ import annotations

import pytest

from tests.harness import request
from tracked_queue import EnqueueFullError, EnqueueUnavailableError, StoreFullError, StoreUnavailableError
from tracked_queue.producer.storing import Steps, Try, storing
from tracked_queue.protocol.request import Request
from tracked_queue.protocol.transitions import Conflict, ConflictWord, Stored, enqueue
from tracked_queue.settings import resolve

SETTINGS = resolve({"redis_url": "redis://x", "enqueue_timeout": 8, "reply_timeout": 30}, environ={})


class Clock:
    """Seconds, which the test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def begun(requests: list[Request], clock: Clock) -> tuple[Steps[tuple[list[Stored], bool]], Try]:
    steps = storing(enqueue(requests), requests, SETTINGS, clock, clock() + SETTINGS.enqueue_timeout)
    step = next(steps)
    assert isinstance(step, Try)
    return steps, step


def silent(ran: bool) -> StoreUnavailableError:
    return StoreUnavailableError("no reply in time", may_have_run=ran)


def ended(steps: Steps[tuple[list[Stored], bool]], answer: object) -> tuple[list[Stored], bool]:
    with pytest.raises(StopIteration) as done:
        steps.send(answer)
    value: tuple[list[Stored], bool] = done.value.value
    return value


def test_the_first_try_leaves_time_for_a_second() -> None:
    clock = Clock()
    steps, first = begun([request("a")], clock)
    assert first.tries.seconds() == 4.0, "half of enqueue_timeout"
    clock.now += 4.0
    pause = steps.throw(silent(ran=True))
    assert isinstance(pause, float)
    clock.now += pause
    second = steps.send(None)
    assert second is first and second.tries.seconds() == pytest.approx(4.0 - pause), "the same call, in what is left"
    assert ended(steps, ([True], True)) == ([True], True)


def test_it_gives_up_when_the_time_is_over_and_says_whether_it_may_have_run() -> None:
    for ran in (True, False):
        clock = Clock()
        steps, _ = begun([request("a"), request("b")], clock)
        steps.throw(silent(ran))
        steps.send(None)
        clock.now += 8.0
        with pytest.raises(EnqueueUnavailableError) as found:
            steps.throw(silent(ran=False))
        assert found.value.may_have_run is ran and found.value.job_ids == ("a", "b")


def test_an_untracked_job_is_not_sent_twice_once_it_may_have_arrived() -> None:
    steps, first = begun([request("a", tracked=False)], Clock())
    assert first.tries.seconds() == 8.0, "its one try has all the time"
    with pytest.raises(EnqueueUnavailableError):
        steps.throw(silent(ran=True))
    steps, _ = begun([request("a", tracked=False)], Clock())
    assert isinstance(steps.throw(silent(ran=False)), float), "it never left"


def test_a_full_store_is_not_asked_again() -> None:
    steps, _ = begun([request("a")], Clock())
    with pytest.raises(EnqueueFullError):
        steps.throw(StoreFullError("it is full", may_have_run=False))


def test_what_is_stored_may_have_run_although_its_further_names_were_refused() -> None:
    """Else a caller that enqueues it again has it twice."""
    steps, _ = begun([request("plain"), request("f", more_after=("y",))], Clock())
    further = steps.send(([True, True], True))
    assert isinstance(further, Try) and further.call.script == "follow"
    with pytest.raises(EnqueueFullError) as found:
        steps.throw(StoreFullError("it is full", may_have_run=False))
    assert found.value.may_have_run and found.value.job_ids == ("f",)


def test_further_names_have_time_of_their_own_and_count_for_what_is_stored() -> None:
    clock = Clock()
    steps, _ = begun([request("f", more_after=("y",))], clock)
    clock.now += 7.9
    further = steps.send(([True], True))
    assert isinstance(further, Try) and further.tries.left == pytest.approx(8.0)
    unknown = Conflict(ConflictWord.UNKNOWN, "y")
    assert ended(steps, (unknown, False)) == ([unknown], False)


def test_a_job_that_was_not_stored_gets_no_further_names() -> None:
    held = Conflict(ConflictWord.HELD, "other")
    steps, _ = begun([request("f", more_after=("y",))], Clock())
    assert ended(steps, ([held], True)) == ([held], True)
