"""
The places of one worker process, shared by its shards.

With one shard its runner has them all. With several, a shard that has jobs left may take what is free, but not what another
with jobs left still lacks of its share. While a process runs suspects, it runs nothing of another shard: what is blamed
when it dies must be what may have done it.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator

from ..protocol.transitions import Mode

# With several shards and no supervisor: suspects that have waited this long make the process take nothing fresh for this long,
# so that it can empty; then it works normally for as long again, and so on.
DRAIN_S = 60.0


class Slots:
    """`total` places, for one shard or several."""

    def __init__(self, total: int, *, several: bool = False) -> None:
        self.total, self.several = total, several
        self.used = self.untracked = 0
        self.seats: list[Seat] = []
        self.testing: Seat | None = None  # the shard whose suspects are here, or being fetched
        self._drains_from: float | None = None

    def join(self, filled: Callable[[], None], owned_of: Callable[[bytes], int]) -> Seat:
        """A shard's part; `filled` is called when a place may have come free."""
        seat = Seat(self, filled, owned_of)
        self.seats.append(seat)
        return seat

    @property
    def idle(self) -> bool:
        """Nothing runs, waits here, or is being fetched."""
        return not any(seat.running or seat.waiting or seat.asked for seat in self.seats)

    def note_suspects(self) -> None:
        """A seat's `suspects` may have changed."""
        if not any(seat.suspects for seat in self.seats):
            self._drains_from = None
        elif self._drains_from is None:
            self._drains_from = time.monotonic() + DRAIN_S * (0.75 + random.random() / 2)  # not a whole fleet at once

    @property
    def drains(self) -> bool:
        """Whether the process is to become empty."""
        if self._drains_from is None:
            return False
        since = time.monotonic() - self._drains_from
        return since >= 0 and since % (2 * DRAIN_S) < DRAIN_S

    def owned_of(self, queue: bytes) -> int:
        """How many jobs of a queue are in this process."""
        return sum(seat.owned_of(queue) for seat in self.seats)

    def freed(self) -> None:
        """Offer what is free to the shards, those with the fewest first."""
        if len(self.seats) == 1:
            self.seats[0].filled()
            return
        for seat in sorted(self.seats, key=lambda seat: (seat.running + seat.asked, seat.turn)):
            seat.filled()


class Seat:
    """
    One shard's part of the slots.

    Its user keeps `waiting` (jobs in the buffer), `hungry` (whether jobs are left in the shard) and `asked` (places that a
    fetch in flight has spoken for).
    """

    def __init__(self, slots: Slots, filled: Callable[[], None], owned_of: Callable[[bytes], int]) -> None:
        self.slots, self.filled, self.owned_of = slots, filled, owned_of
        self.alone = not slots.several  # the process has no other shard
        self.running = self.waiting = self.asked = self.turn = 0
        self.hungry = True
        self.keeps = False  # it has suspects here, or some are expected
        self.suspects = False  # some of its shard wait for this process to become empty

    def free(self) -> int:
        """How many places this shard may fill by a fetch now."""
        slots = self.slots
        if self.alone:
            return slots.total - slots.used - self.waiting
        if slots.testing not in (None, self) or (slots.drains and not slots.idle):
            return 0
        # Other shards' waiting jobs keep no place: if this one is short of its share, theirs wait on.
        free = slots.total - slots.used - self.waiting - sum(seat.asked for seat in slots.seats)
        return min(free, self._most() - self.running - self.waiting - self.asked)

    def _most(self) -> int:
        """How many places this shard may have: all, or its share while another that has jobs left is short of its own."""
        slots = self.slots
        wanting = [seat for seat in slots.seats if seat.hungry or seat.waiting or seat is self]
        share = math.ceil(slots.total / len(wanting))
        short = any(seat.running + seat.asked < share for seat in wanting if seat is not self)
        return share if short else slots.total

    def may_hoard(self) -> bool:
        """
        Whether jobs may wait here for a place. With fewer places than shards they may not: whoever has one at hand would take
        each place before the others' fetches came back.
        """
        return self.alone or self.slots.total >= len(self.slots.seats)

    def standing(self, most: int) -> int:
        """How many jobs a fetch that waits may bring: every shard has such a one, so they divide what is free."""
        seats = len(self.slots.seats)
        return most if seats == 1 else min(most, max(1, (self.slots.total - self.slots.used) // seats))

    def open(self) -> bool:
        """Whether a job can start now."""
        slots = self.slots
        if self.alone:
            return slots.used < slots.total
        return slots.used < slots.total and slots.testing in (None, self) and self.running < self._most()

    def start(self) -> None:
        """A job starts."""
        self.running += 1
        self.slots.used += 1
        if not self.alone:
            self.turn = max(seat.turn for seat in self.slots.seats) + 1

    def end(self) -> None:
        """A job has ended."""
        self.running -= 1
        self.slots.used -= 1

    # Suspects: they run with nothing else. A shard's own fetches see to that (lua/fetch.lua); this is between shards, and for
    # untracked jobs, of which Redis knows nothing once they have begun.

    @property
    def has_company(self) -> bool:
        """Whether the process has jobs that this shard's fetches don't know of."""
        slots = self.slots
        return slots.untracked > 0 or any(
            seat.running or seat.waiting or seat.asked for seat in slots.seats if seat is not self
        )

    @contextlib.contextmanager
    def asking(self, mode: Mode, start: int) -> Iterator[Mode]:
        """What a fetch may ask for; while it asks for suspects, no other shard fetches."""
        slots = self.slots
        if self.alone:
            yield Mode.NONE if slots.untracked else mode
            return
        if mode is Mode.NONE or not start or self.has_company or slots.testing not in (None, self):
            yield Mode.NONE
            return
        slots.testing = self
        try:
            yield mode
        finally:
            if not self.keeps:
                self.let_others()

    def keep(self) -> None:
        """Suspects are here: the process is this shard's until `let_others`."""
        self.keeps = True
        if not self.alone:
            self.slots.testing = self

    @property
    def may_take(self) -> bool:
        """Whether what a fetch brought may start: suspects run with no other shard's jobs in the process."""
        if self.keeps:
            return not self.has_company
        return self.alone or self.slots.testing in (None, self)

    def let_others(self) -> None:
        """The suspects have outlived their gates, or have ended: other shards may fetch again."""
        self.keeps = False
        if self.slots.testing is self:
            self.slots.testing = None
            self.slots.freed()

    def leave(self) -> None:
        """The shard's lease is over; nothing of it runs."""
        self.slots.seats.remove(self)
        self.slots.note_suspects()
        self.let_others()
        self.slots.freed()
