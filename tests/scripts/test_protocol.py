"""lua/protocol.lua, and what register.lua makes of it: who may work in a namespace beside whom."""

from __future__ import annotations

import pytest

from tests.harness import INTERVAL, TTL, Scripts
from tracked_queue import StoreRefusedError
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import Agreed, ProtocolWord
from tracked_queue.protocol.version import NEWEST, OLDEST, WRITES

# (oldest, newest, writes) of releases that follow one another: each changes one thing.
EARLIER, PREPARES, SWITCHES, DROPS = (1, 1, 1), (1, 2, 1), (1, 2, 2), (2, 2, 2)


def agree(q: Scripts, release: tuple[int, int, int]) -> Agreed:
    return q.store.run(t.protocol(*release))


def register(q: Scripts, lease: str, release: tuple[int, int, int]) -> bool:
    """An instance of that release, as it would register itself."""
    call = t.register(lease, TTL, INTERVAL, {"version": f"0.{release}"})
    call.args[4] = release[1]  # type: ignore[index]
    return q.store.run(call)


def number(q: Scripts) -> int:
    return int(q.redis.get(q.keys.protocol) or 0)


def test_our_own_numbers_are_a_window() -> None:
    assert max(1, WRITES - 1) == OLDEST <= WRITES <= NEWEST <= WRITES + 1


@pytest.mark.parametrize("release", [EARLIER, PREPARES, SWITCHES, DROPS])
def test_an_empty_namespace_has_the_protocol_of_its_first_program(q: Scripts, release: tuple[int, int, int]) -> None:
    assert agree(q, release) == Agreed(ProtocolWord.OK, release[2]) == agree(q, release), "the same again"
    assert number(q) == release[2]


def test_one_that_was_in_use_before_there_were_numbers_has_the_first(q: Scripts) -> None:
    q.enqueue("a")
    assert agree(q, DROPS) == Agreed(ProtocolWord.BELOW, 1)
    assert number(q) == 0
    assert agree(q, PREPARES) == Agreed(ProtocolWord.OK, 1)
    assert number(q) == 1


def test_releases_next_to_each_other_work_together(q: Scripts) -> None:
    for older, newer in [(EARLIER, PREPARES), (PREPARES, SWITCHES), (SWITCHES, DROPS)]:
        assert agree(q, older).word is ProtocolWord.OK and register(q, f"old{older}", older)
        assert agree(q, newer).word is ProtocolWord.OK and register(q, f"new{newer}", newer)
        assert agree(q, older).word is ProtocolWord.OK, "a rollback, or one more pod of the older one"
        assert register(q, f"again{older}", older)
        for lease in (f"old{older}", f"again{older}"):
            q.store.run(t.release(lease, t.End.INTERRUPTED))


def test_a_release_that_is_skipped_is_refused_beside_live_workers(q: Scripts) -> None:
    assert agree(q, EARLIER) and register(q, "w", EARLIER)
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.BEHIND, 1, "w", f"0.{EARLIER}")
    assert number(q) == 1
    q.store.run(t.release("w", t.End.INTERRUPTED))
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.OK, 2), "they were stopped first"


def test_what_is_too_old_comes_in_no_more(q: Scripts) -> None:
    assert agree(q, SWITCHES).number == 2
    assert agree(q, EARLIER) == Agreed(ProtocolWord.ABOVE, 2)
    before = q.redis.dbsize()
    with pytest.raises(StoreRefusedError, match="written in protocol 2"):
        register(q, "w", EARLIER)
    assert q.redis.dbsize() == before and number(q) == 2
    assert register(q, "v", PREPARES)


def test_one_that_agreed_before_the_number_was_raised_is_refused_as_it_registers(q: Scripts) -> None:
    assert agree(q, EARLIER).word is ProtocolWord.OK
    assert agree(q, SWITCHES).word is ProtocolWord.OK
    with pytest.raises(StoreRefusedError):
        register(q, "w", EARLIER)


def test_an_old_instance_past_its_deadline_neither_holds_it_up_nor_comes_back(q: Scripts) -> None:
    assert agree(q, EARLIER) and register(q, "old", EARLIER) and register(q, "beside", PREPARES)
    q.enqueue("a")
    assert len(q.take("old")) == 1
    q.pass_time(TTL - 1)
    assert q.beat("beside")
    q.pass_time(2)
    assert agree(q, SWITCHES) == Agreed(ProtocolWord.OK, 2)
    assert q.redis.zscore(q.keys.single("instances"), "old") == 0, "it is revoked, for a sweep to recover its job"
    assert q.redis.zscore(q.keys.single("instances"), "beside"), "it reads the new one"
    assert q.beat("old") is None


def test_an_instance_from_before_there_were_numbers_reads_the_first(q: Scripts) -> None:
    assert register(q, "w", EARLIER)
    q.redis.hdel(q.keys.named("instance", "w"), "protocol")
    assert agree(q, PREPARES).word is ProtocolWord.OK
    assert agree(q, SWITCHES).word is ProtocolWord.BEHIND


def test_what_something_else_wrote_there_counts_as_the_first(q: Scripts) -> None:
    q.redis.set(q.keys.protocol, "latest")
    assert agree(q, DROPS) == Agreed(ProtocolWord.BELOW, 1)
    assert agree(q, EARLIER) == Agreed(ProtocolWord.OK, 1)
