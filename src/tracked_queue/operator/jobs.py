"""Jobs as an operator handles them: a page of a list over all shards, and a whole line that is moved."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime

from ..errors import UsageError
from ..protocol.text import to_text
from ..protocol.transitions import MAX_RICH, MoveWord, move
from ..reports.jobs import drop_ended
from ..reports.listing import ENDED_STATES, MOST_SKIPPED, JobFilter, JobPage, JobRow, ListedState, list_jobs, read_head
from ..transport.store import Store

_EPOCH = datetime.fromtimestamp(0, UTC)
_OVER = "-"


async def page_of(
    stores: Sequence[Store], state: ListedState, which: JobFilter, limit: int, start: str | None
) -> JobPage:
    """
    A page over all shards: each shard's jobs in their order, and those of several by their times.

    Raises:
        UsageError: `start` is not what a page of as many shards ended with.
    """
    places = _places(start, len(stores))
    lists: list[list[tuple[JobRow, int, int]]] = []
    ends: list[int | None] = []
    for shard, (store, place) in enumerate(zip(stores, places, strict=True)):
        found, end = ([], None) if place is None else await list_jobs(store, state, which, limit=limit, skip=place)
        lists.append([(row, shard, after) for row, after in found])
        ends.append(end)
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
    over = all(place is None for place in places)
    return JobPage(rows=rows, next=None if over else ".".join(_OVER if one is None else str(one) for one in places))


def _places(start: str | None, shards: int) -> list[int | None]:
    if start is None:
        return [0] * shards
    parts = start.split(".")
    if len(parts) != shards or not all(part == _OVER or (part.isdecimal() and len(part) < 9) for part in parts):
        raise UsageError(f"start={start!r}: give what `next` of the page before was")
    places = [None if part == _OVER else int(part) for part in parts]
    if max(place or 0 for place in places) > MOST_SKIPPED:
        raise UsageError(f"start={start!r}: a page can lie behind {MOST_SKIPPED:,} jobs at most; narrow the list")
    return places


async def move_line(store: Store, source: str, queue: str, by: str, most: int | None) -> int:
    """Move one queue's line to another, from its head; at most `most` jobs. How many were moved."""
    moved = stay = 0
    await drop_ended(store, queue=source)
    while most is None or moved < most:
        n = MAX_RICH if most is None else min(MAX_RICH, most - moved)
        found = await read_head(store, source, n, stay)
        if not found:
            break
        words = await store.run(move([to_text(job_id) for job_id in found], queue, by))
        count = words.count(MoveWord.OK)
        moved += count
        stay += len(words) - count
    return moved
