"""How many jobs a fetch asks for."""

from __future__ import annotations

import pytest

from tracked_queue.protocol.transitions import MAX_BATCH
from tracked_queue.worker.appetite import BUFFER_TIMES, STANDING, Appetite
from tracked_queue.worker.slots import Seat, Slots


def one(total: int = 100) -> tuple[Appetite, Seat]:
    seat = Slots(total).join(lambda: None, lambda _: 0)
    return Appetite(seat, total, 0.0), seat


def busy(appetite: Appetite, seconds: float, per_second: int) -> float:
    """As after so many ends a second for so long; the time then."""
    count = round(seconds * per_second)
    for n in range(count):
        appetite.ended((n + 1) / per_second)
        appetite.room((n + 1) / per_second)
    return count / per_second


def test_what_is_free_may_start() -> None:
    appetite, seat = one(10)
    assert appetite.room(0.0) == (10, 0)
    for _ in range(7):
        seat.start()
    seat.waiting = 2
    assert appetite.room(0.0)[0] == 1
    for _ in range(5):
        seat.start()  # untracked jobs that could not wait on
    assert appetite.room(0.0) == (0, 0)


def test_one_fetch_is_never_asked_for_more_than_a_batch() -> None:
    appetite, _ = one(10_000)
    now = busy(appetite, 1.0, 100_000)
    start, buffer = appetite.room(now)
    assert (start, buffer) == (MAX_BATCH, 0)


@pytest.mark.parametrize(("per_second", "waits"), [(10, False), (100, True), (100_000, True)])
def test_jobs_wait_here_only_if_they_start_soon_at_the_rate_seen_lately(per_second: int, waits: bool) -> None:
    appetite, seat = one(20)
    now = busy(appetite, 1.0, per_second)
    for _ in range(20):
        seat.start()
    start, buffer = appetite.room(now)
    assert start == 0 and (buffer > 0) is waits and buffer <= BUFFER_TIMES * 20
    assert appetite.room(now + 1.0) == (0, 0), "a rate of long ago is forgotten"


def test_the_buffer_is_refilled_in_halves() -> None:
    appetite, seat = one(20)
    now = busy(appetite, 1.0, 2000)
    for _ in range(20):
        seat.start()
    target = appetite.room(now)[1]
    seat.waiting = target // 2 + 1
    assert appetite.room(now) == (0, 0)
    seat.waiting = target // 2
    assert appetite.room(now)[1] == target - target // 2


def test_what_has_to_start_at_once_and_caps_of_queues_leave_no_buffer() -> None:
    appetite, seat = one(20)
    now = busy(appetite, 1.0, 100_000)
    assert appetite.want(now, ["q"], {}).buffer > 0
    assert appetite.want(now, ["q"], {"q": 3}).buffer == 0
    appetite.must_start = True
    assert appetite.want(now, ["q"], {}).buffer > 0, "a slot is free for it"
    for _ in range(20):
        seat.start()
    assert appetite.want(now, ["q"], {}).buffer == 0
    appetite.must_start = False
    assert appetite.want(now, ["q"], {}).buffer > 0
    assert appetite.want(now, [], {})[:2] == (0, 0), "every queue has as many here as it may have"


def test_few_after_a_rest_then_twice_as_many_each_time() -> None:
    appetite, _ = one(1000)
    want = appetite.want(0.0, ["q"], {})
    assert [appetite.next_fetch(want) for _ in range(7)] == [STANDING * 2**n for n in range(5)] + [250, 250]
    assert appetite.next_standing(want) == STANDING
    assert appetite.next_fetch(want) == STANDING


def test_a_standing_fetch_has_spoken_for_its_places() -> None:
    appetite, _ = one(10)
    want = appetite.want(0.0, ["q"], {})
    assert appetite.next_fetch(want, standing=8) == 2
    assert appetite.next_fetch(want, standing=10) == 1, "what is due has to be asked for"
    assert appetite.next_fetch(want._replace(start=0)) == 0


def test_a_group_of_suspects_comes_at_once() -> None:
    appetite, _ = one(100)
    assert appetite.next_fetch(appetite.want(0.0, ["q"], {}), suspects=True) == 100


def test_shards_divide_what_is_free() -> None:
    slots = Slots(8, several=True)
    seats = [slots.join(lambda: None, lambda _: 0) for _ in range(4)]
    appetites = [Appetite(seat, 8, 0.0) for seat in seats]
    wants = [appetite.want(0.0, ["q"], {}) for appetite in appetites]
    assert [appetite.next_standing(want) for appetite, want in zip(appetites, wants, strict=True)] == [2, 2, 2, 2]
