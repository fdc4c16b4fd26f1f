"""Jobs as an operator handles them: a page of a list over all shards, and a whole line that is moved."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ..errors import StoreRefusedError, UsageError
from ..protocol.text import to_text
from ..protocol.transitions import MAX_MOVED, MoveWord, move
from ..reports.jobs import drop_ended
from ..reports.listing import ENDED_STATES, Found, JobFilter, JobPage, JobRow, ListedState, Place, list_jobs, read_head
from ..transport.store import Store

_NOTHING = Found([], None, 0)
_EPOCH = datetime.fromtimestamp(0, UTC)


async def page_of(
    stores: Sequence[Store], state: ListedState, which: JobFilter, limit: int, start: str | None
) -> JobPage:
    """
    A page over all shards: each shard's jobs in their order, and those of several by their times.

    Raises:
        UsageError: `start` is not what a page of as many shards ended with.
    """
    places = _places(start, len(stores))
    lists: list[list[tuple[JobRow, int, Place]]] = []
    ends: list[Place | None] = []
    looked_at = 0
    for shard, (store, place) in enumerate(zip(stores, places, strict=True)):
        found = _NOTHING if place is None else await list_jobs(store, state, which, limit=limit, after=place)
        lists.append([(row, shard, after) for row, after in found.rows])
        ends.append(found.end)
        looked_at += found.looked_at
    newest_first = state in ENDED_STATES
    merged = heapq.merge(*lists, key=lambda one: one[0].at or _EPOCH, reverse=newest_first)
    rows: list[JobRow] = []
    shown = [0] * len(stores)
    for row, shard, after in merged:
        if len(rows) == limit:
            break
        rows.append(row)
        places[shard] = after
        shown[shard] += 1
    for shard, of_shard in enumerate(lists):
        if shown[shard] == len(of_shard):  # all that was found is on this page
            places[shard] = ends[shard]
    more = None if all(place is None for place in places) else _packed(places)
    return JobPage(rows=rows, next=more, looked_at=looked_at)


_places_decoder = msgspec.msgpack.Decoder(list[tuple[tuple[str, ...], int, bytes] | None])


def _packed(places: Sequence[Place | None]) -> str:
    packed = msgspec.msgpack.encode([None if place is None else tuple(place) for place in places])
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _places(start: str | None, shards: int) -> list[Place | None]:
    if start is None:
        return [Place()] * shards
    try:
        found = _places_decoder.decode(base64.urlsafe_b64decode(start + "=" * (-len(start) % 4)))
    except (ValueError, msgspec.DecodeError):
        found = []
    if len(found) != shards or not all(one is None or 0 <= one[1] < 2**31 for one in found):
        raise UsageError(f"start={start!r}: give what `next` of the page before was")
    return [None if one is None else Place(*one) for one in found]


async def move_line(store: Store, source: str, queue: str, by: str, most: int | None) -> int:
    """Move one queue's line to another, from its head; at most `most` jobs. How many were moved."""
    moved = stay = of_round = 0
    await drop_ended(store, queue=source)
    while most is None or moved < most:
        n = MAX_MOVED if most is None else min(MAX_MOVED, most - moved)
        found = await read_head(store, source, n, stay)
        if not found:
            if not of_round:
                break
            stay = of_round = 0  # some were taken meanwhile, and others may have been passed over
            continue
        words = await store.run(move([to_text(job_id) for job_id in found], queue, by))
        count = words.count(MoveWord.OK)
        moved, of_round = moved + count, of_round + count
        # What has started is not in the line any more; the others stay where they are.
        stay += len(words) - count - words.count(MoveWord.STARTED)
        if MoveWord.FOREIGN in words:
            raise StoreRefusedError(
                f"a key of another type stands in the place of queue {queue!r}; nothing was moved there"
            )
    return moved
