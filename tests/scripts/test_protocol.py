"""lua/protocol.lua, and what register.lua makes of it: who may work in a namespace beside whom."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue import NamespaceMismatchError
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Agreed, ProtocolWord
from tracked_queue.protocol.version import NEWEST, OLDEST, WRITES, number_in

# (oldest, newest, writes) of releases that follow one another: each changes one thing.
EARLIER, PREPARES, SWITCHES, DROPS = (1, 1, 1), (1, 2, 1), (1, 2, 2), (2, 2, 2)


def agree(q: Scripts, release: tuple[int, int, int], what: Literal["look", "raise"] = "raise") -> Agreed:
    return q.store.run(t.protocol(*release, what))


def register(q: Scripts, lease: str, release: tuple[int, int, int]) -> bool:
    """An instance of that release, as it would register itself."""
    call = t.register(lease, TTL, INTERVAL, {"version": f"0.{release}"})
    call.args[4:6] = release[1:]  # type: ignore[index]
    return q.store.run(call)


def number(q: Scripts) -> int:
    return int(q.redis.get(q.keys.protocol) or 0)


def test_our_own_numbers_are_a_window() -> None:
    assert 1 <= OLDEST <= max(1, WRITES - 1) and WRITES <= NEWEST <= WRITES + 1


@pytest.mark.parametrize("release", [EARLIER, PREPARES, SWITCHES, DROPS])
def test_a_namespace_without_a_number_gets_that_of_the_next_program(q: Scripts, release: tuple[int, int, int]) -> None:
    assert agree(q, release, "look") == Agreed(ProtocolWord.OK, 0) and number(q) == 0
    assert agree(q, release) == Agreed(ProtocolWord.OK, release[2]) == agree(q, release), "the same again"
    assert number(q) == release[2]


def test_releases_next_to_each_other_work_together(q: Scripts) -> None:
    for older, newer in [(EARLIER, PREPARES), (PREPARES, SWITCHES), (SWITCHES, DROPS)]:
        assert agree(q, older).word is ProtocolWord.OK and register(q, f"old{older}", older)
        assert agree(q, newer).word is ProtocolWord.OK and register(q, f"new{newer}", newer)
        assert agree(q, older).word is ProtocolWord.OK, "a rollback, or one more pod of the older one"
        assert register(q, f"again{older}", older)
        for lease in (f"old{older}", f"again{older}"):
            q.store.run(t.release(lease, t.End.INTERRUPTED))


@pytest.mark.parametrize("what", ["look", "raise"])
def test_a_release_that_is_skipped_is_refused_beside_live_workers(q: Scripts, what: Literal["look", "raise"]) -> None:
    assert agree(q, EARLIER) and register(q, "w", EARLIER)
    assert agree(q, SWITCHES, what) == Agreed(ProtocolWord.BEHIND, 1, "w", f"0.{EARLIER}")
    assert number(q) == 1
    q.store.run(t.release("w", t.End.INTERRUPTED))
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.OK, 2), "they were stopped first"


def test_what_is_too_old_comes_in_no_more(q: Scripts) -> None:
    assert agree(q, SWITCHES).number == 2
    assert agree(q, EARLIER) == Agreed(ProtocolWord.ABOVE, 2)
    before = q.redis.dbsize()
    with pytest.raises(NamespaceMismatchError, match="written in protocol 2"):
        register(q, "w", EARLIER)
    assert q.redis.dbsize() == before and number(q) == 2
    assert register(q, "v", PREPARES)


def test_what_has_waited_for_too_long_is_not_read(q: Scripts) -> None:
    assert agree(q, EARLIER).number == 1
    assert agree(q, DROPS) == Agreed(ProtocolWord.BELOW, 1) and number(q) == 1


def test_one_that_agreed_before_the_number_was_raised_is_refused_as_it_registers(q: Scripts) -> None:
    assert agree(q, EARLIER).word is ProtocolWord.OK
    assert agree(q, SWITCHES).word is ProtocolWord.OK
    with pytest.raises(NamespaceMismatchError):
        register(q, "w", EARLIER)


def test_an_old_instance_that_is_long_late_neither_holds_it_up_nor_comes_back(q: Scripts) -> None:
    assert agree(q, EARLIER) and register(q, "old", EARLIER) and register(q, "beside", PREPARES)
    q.enqueue("a")
    assert len(q.take("old")) == 1
    q.pass_time(TTL + 1)
    assert agree(q, SWITCHES).word is ProtocolWord.BEHIND, "an outage may have kept it from beating, and it beats next"
    q.pass_time(TTL)
    assert q.beat("beside")
    assert agree(q, SWITCHES, "look") == Agreed(ProtocolWord.OK, 1)
    assert q.redis.zscore(q.keys.single("instances"), "old"), "it only looked"
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.OK, 2)
    assert q.redis.zscore(q.keys.single("instances"), "old") == 0, "it is revoked, for a sweep to recover its job"
    assert q.redis.zscore(q.keys.single("instances"), "beside"), "it reads the new one"
    assert q.beat("old") is None


def test_one_that_beat_by_a_clock_that_was_ahead_does_not_hold_it_up(q: Scripts) -> None:
    assert agree(q, EARLIER) and register(q, "old", EARLIER)
    q.pass_time(-3600)
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.OK, 2)
    assert q.beat("old") is None


def test_an_instance_from_before_there_were_numbers_reads_the_first(q: Scripts) -> None:
    assert register(q, "w", EARLIER)
    q.redis.hdel(q.keys.named("instance", "w"), "protocol")
    assert agree(q, PREPARES).word is ProtocolWord.OK
    assert agree(q, SWITCHES).word is ProtocolWord.BEHIND


def test_a_server_that_lost_everything_has_what_its_workers_write(q: Scripts) -> None:
    assert agree(q, DROPS) and register(q, "w", DROPS)
    now = q.now()
    q.redis.flushdb()
    q.now(now)
    q.enqueue("a")
    assert agree(q, DROPS, "look").word is ProtocolWord.OK
    assert q.beat("w") is None and register(q, "v", DROPS)
    assert number(q) == 2 and agree(q, DROPS).number == 2
    assert agree(q, EARLIER) == Agreed(ProtocolWord.ABOVE, 2)


@pytest.mark.parametrize("found", ["latest", "0", "-3", "1.5e99", "9" * 30, "1" * 5000, "", None])
def test_what_something_else_wrote_there_counts_as_nothing(q: Scripts, found: str | None) -> None:
    if found is None:
        q.redis.hset(q.keys.protocol, "a", "1")
    else:
        q.redis.set(q.keys.protocol, found)
        assert number_in(found.encode()) == 0
    assert agree(q, DROPS, "look") == Agreed(ProtocolWord.OK, 0)
    assert register(q, "w", DROPS) and number(q) == 2
    assert agree(q, DROPS) == Agreed(ProtocolWord.OK, 2)


def test_a_damaged_instance_counts_as_one_of_the_first(q: Scripts) -> None:
    q.redis.zadd(q.keys.single("instances"), {"w": q.now() + 1000})
    q.redis.set(q.keys.named("instance", "w"), "")
    assert agree(q, SWITCHES).word is ProtocolWord.OK, "it has no TTL and is as good as gone"
