"""
The places of one worker process, shared by its shards.

With one shard its runner has them all. With several, a shard that has jobs left may take what is free, but not what another
that has jobs left too is short of its share. A process runs one suspect at a time, whichever shard it is from: what is charged
when the process dies must be the one that may have done it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

from ..transitions import Outcome


class Slots:
    """`total` places, for one shard or several."""

    def __init__(self, total: int, *, several: bool = False) -> None:
        self.total, self.several = total, several
        self.used = 0
        self.seats: list[Seat] = []
        self.suspecting: Seat | None = None  # the shard whose suspect is here, or being fetched

    def join(self, filled: Callable[[], None], owned_of: Callable[[bytes], int]) -> Seat:
        """A shard's part; `filled` is called when a place or the suspect's turn may have come free."""
        seat = Seat(self, filled, owned_of)
        self.seats.append(seat)
        return seat

    @property
    def idle(self) -> bool:
        """Nothing runs, waits here, or is being fetched."""
        return not any(seat.running or seat.waiting or seat.asked for seat in self.seats)

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
        self._suspects: set[tuple[bytes, bytes]] = set()

    def free(self) -> int:
        """How many places this shard may fill by a fetch now."""
        slots = self.slots
        if self.alone:
            return slots.total - slots.used - self.waiting
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
        return self.slots.used < self.slots.total and (self.alone or self.running < self._most())

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

    # The process' one suspect at a time. A shard's own fetches see to it by themselves (lua/fetch.lua); this is between shards.

    @property
    def turn_free(self) -> bool:
        """Whether this shard may ask for a suspect."""
        return self.slots.suspecting in (None, self)

    @contextlib.contextmanager
    def asking_for_turn(self, start: int) -> Iterator[bool]:
        """Have the turn while a fetch is under way, and on if it brings a suspect; whether it is to be had."""
        if self.alone:
            yield True
            return
        asks = start > 0 and self.turn_free
        if asks:
            self.slots.suspecting = self
        try:
            yield asks
        finally:
            if asks:
                self.give_turn()

    def holds(self, job_id: bytes, delivery: bytes) -> bool:
        """Take in a suspect that a fetch brought: it has the turn until its outcome is recorded, even if it is handed back."""
        if self.alone:
            return True
        free = self.turn_free and self.open()
        if self.turn_free:
            self.slots.suspecting = self
            self._suspects.add((job_id, delivery))
        return free

    def settled(self, batch: Sequence[Outcome]) -> None:
        """Outcomes are recorded; Redis' own mark of a suspect among them is gone, so the turn is free."""
        if self._suspects:
            self._suspects -= {(outcome.id, outcome.delivery) for outcome in batch}
            self.give_turn()

    def give_turn(self) -> None:
        """Leave the turn to others, unless a suspect of this shard is here."""
        if self.slots.suspecting is self and not self._suspects:
            self.slots.suspecting = None
            self.slots.freed()

    def leave(self) -> None:
        """The shard's lease is over; nothing of it runs."""
        self.slots.seats.remove(self)
        if self.slots.suspecting is self:
            self.slots.suspecting = None
        self.slots.freed()
