"""What an enqueue sends of one job."""

from __future__ import annotations

from typing import Any

import msgspec

# A call of 1 MiB then has about three jobs that come after 250 others each.
EXTRAS_WEIGHT = 32
# And about eighty jobs with a unique key or limits.
RICH_WEIGHT = 10_240


class Request(msgspec.Struct, frozen=True):
    """One job to be stored, checked and encoded; nothing about it can fail any more before the send."""

    id: str
    task: str
    queue: str
    args: bytes
    kwargs: bytes
    options: bytes
    delay_ms: int | None
    due_ms: int | None
    tracked: bool
    extras: bytes
    result: Any  # the task's ValueCodec for its result, or None for a task whose code is not at hand
    durability: str = "memory"
    pinned: bool = False  # its shard was decided: by its id, a key, a limit, or jobs that it comes after
    more_after: tuple[str, ...] = ()  # the jobs that it comes after beyond those in `extras`
    wants: int = 0  # from how many of all those it wants results

    def weight(self) -> int:
        """What it adds to a call, in bytes; extras weigh more, since what they name is looked at one by one."""
        size = len(self.args) + len(self.kwargs) + len(self.options)
        return size + RICH_WEIGHT + EXTRAS_WEIGHT * len(self.extras) if self.extras else size
