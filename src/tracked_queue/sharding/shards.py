"""
Which shard a job lives in: its id alone decides that, so that any program that has the id finds the record.

A shard is a complete small system: its keys share a hash tag, `{namespace}` where there is one shard, else (of three)
`{namespace:0/3}`, `{namespace:1/3}` and so on; on a Redis Cluster each is in one slot. Source: docs/explanation/scale.md.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import UsageError
from ..protocol.keys import Keys

T = TypeVar("T")

_MADE = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}(?:~|\Z)")
_OF_ID = re.compile(r"~(\d{1,5})\Z")

# Bits of a UUID of version 7 below its 48 bits of time: four say its version, two its variant, 74 are random.
_FORMAT, _CHANCE = 0x7000_8000_0000_0000_0000, 0x0FFF_3FFF_FFFF_FFFF_FFFF

# Ids must differ, not be secret; a generator of our own, seeded by the system and anew after a fork, is five times as
# fast as asking the system for each.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a namespace: `count` of them, numbered from 0."""

    namespace: str
    count: int
    clock: str = "now_ms"  # see Keys

    def keys(self, shard: int) -> Keys:
        """The key names of one shard."""
        # The count is part of the tag: what a program with another number still writes never gets among the others' keys.
        return Keys(self.namespace if self.count == 1 else f"{self.namespace}:{shard}/{self.count}", self.clock)

    @property
    def base_keys(self) -> Keys:
        """The key names under which the number of shards is kept."""
        return Keys(self.namespace, self.clock)

    def grouped(self, items: Iterable[T], id_of: Callable[[T], str]) -> dict[int, list[T]]:
        """Things by the shards of their ids, each in the order given."""
        found: dict[int, list[T]] = {}
        for item in items:
            found.setdefault(self.of_id(id_of(item)), []).append(item)
        return found

    def by_shard(self, ids: Iterable[str]) -> dict[int, list[str]]:
        """Ids by their shards."""
        return self.grouped(ids, str)

    def new_id(self, shard: int | None = None) -> str:
        """
        A time-ordered UUID (version 7) as 32 hex digits: short in Redis, sorted by creation time.

        With several shards it ends in `~` and its shard: the one given, else any.
        """
        id = f"{(time.time_ns() // 1_000_000) << 80 | _FORMAT | _random.getrandbits(76) & _CHANCE:032x}"
        if self.count == 1:
            return id
        return f"{id}~{_random.randrange(self.count) if shard is None else shard}"

    def derived(self, id: str, seed: str) -> str:
        """An id in the shard of another one, and of its time; the same for the same seed."""
        digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()
        time_of = id[:13] if _MADE.match(id) else digest[19:32]
        return self.moved(f"{time_of}{digest[:19]}", self.of_id(id))

    def new_like(self, id: str) -> str:
        """A new id in the shard of another one."""
        return self.new_id(self.of_id(id))

    def of_id(self, id: str) -> int:
        """The shard of a job by its id: the number it ends in, else a hash of its text."""
        if self.count == 1:
            return 0
        found = _OF_ID.search(id)
        number = int(found[1]) if found else self.count
        return number if number < self.count else self.of_text(id)

    def of_text(self, text: str) -> int:
        """The shard of a name: the same in every process and version."""
        return zlib.crc32(text.encode("utf-8", "surrogatepass")) % self.count

    def moved(self, id: str, shard: int) -> str:
        """A generated id, ending in another shard."""
        return id if self.count == 1 else f"{_OF_ID.sub('', id)}~{shard}"

    def names(self, id: str, shard: int) -> bool:
        """Whether an id says by its ending that it is of this shard."""
        found = _OF_ID.search(id)
        return self.count == 1 or (found is not None and int(found[1]) == shard)

    def common(self, what: str, ids: Iterable[str]) -> int | None:
        """The one shard of several jobs; None for none. Raises UsageError when they are in several."""
        found = {self.of_id(id): id for id in ids}
        if len(found) > 1:
            (one, id_one), (two, id_two), *_ = sorted(found.items())
            raise UsageError(
                f"{what}: job {id_one} is in shard {one} and job {id_two} in shard {two}; what depends on each other must "
                "share a shard"
            )
        return next(iter(found), None)

    def home(self, what: str, id: str | None, wanted: Sequence[tuple[str, int]]) -> int | None:
        """
        The one shard in which a job has to be; None if any will do.

        Args:
            what: The job, for people.
            id: The caller's own id, if it gave one.
            wanted: Why, and which: keys, limits, the jobs that it comes after.

        Raises:
            UsageError: It would have to be in two.
        """
        if self.count == 1:
            return 0
        for why, shard in wanted[1:]:
            if shard != wanted[0][1]:
                raise UsageError(
                    f"{what}: {wanted[0][0]} needs shard {wanted[0][1]}, and {why} needs shard {shard}; a job is in one"
                )
        if not wanted:
            return None if id is None else self.of_id(id)
        why, shard = wanted[0]
        if id is not None and not self.names(id, shard):
            raise UsageError(
                f"{what}: {why} decides the shard, so its id has to name it: leave id= out, or end it with ~ and the "
                f"shard, here {id}~{shard}"
            )
        return shard
