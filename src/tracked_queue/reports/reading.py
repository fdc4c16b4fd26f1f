"""Reading what Redis holds, and tolerating what other programs wrote there: none of it makes a report fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from ..protocol.states import State
from ..protocol.text import to_bytes
from ..transport.store import Store

PAGE = 250


def number_of(raw: bytes | None) -> int:
    """A whole number as a script wrote it; 0 for none, and for what something else wrote there."""
    try:
        number = float(raw or 0)
        return int(number) if abs(number) < 2**53 else 0
    except ValueError:
        return 0


def time_of(ms: bytes | None) -> datetime | None:
    """A moment that a script wrote in ms since 1970; None for none, and for one beyond the range of dates."""
    try:
        return datetime.fromtimestamp(number_of(ms) / 1000, UTC) if ms else None
    except (ValueError, OverflowError, OSError):
        return None


def state_of(raw: bytes | None) -> State | None:
    """A state; None for none, and for an unknown one."""
    try:
        return State(text_of(raw))
    except ValueError:
        return None


def _delivered(delivery: bytes | None) -> datetime | None:
    """A delivery's number is the server's time in ms, or a little more; its negative once it has settled."""
    number = (delivery or b"").lstrip(b"-")
    return time_of(number) if number not in (b"", b"0") else None


def text_of(data: bytes | None) -> str:
    """Text to show; empty for none."""
    return (data or b"").decode("utf-8", "replace")


async def now_ms(store: Store) -> int:
    """The server's time."""
    ((seconds, micros),) = await store.read(("TIME",))
    return int(seconds) * 1000 + int(micros) // 1000


async def scan(store: Store, verb: str, key: str) -> AsyncIterator[list[bytes]]:
    """The members of a set (SSCAN) or a sorted one (ZSCAN), or the fields of a hash (HSCAN), in pages; one may come twice."""
    cursor = b"0"
    while True:
        ((cursor, flat),) = await store.read((verb, key, cursor, "COUNT", PAGE))
        yield flat if verb == "SSCAN" else flat[::2]
        if cursor == b"0":
            return


async def pages_of(store: Store, key: str) -> AsyncIterator[list[bytes]]:
    """A list from its left end, in pages; if items are added on the left meanwhile, some come twice, harmlessly."""
    at = 0
    while True:
        (ids,) = await store.read(("LRANGE", to_bytes(key), at, at + PAGE - 1))
        if not ids:
            return
        yield ids
        at += len(ids)


async def lanes_of(store: Store, queue: str) -> list[bytes]:
    """Lanes of a queue that hold jobs, wherever they wait for their turn."""
    return [lane async for page in scan(store, "HSCAN", store.keys.named("laned", queue)) for lane in page]
