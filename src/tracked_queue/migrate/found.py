"""What is found in another queue: a call that can be moved, or something that stays, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    One call that waits.

    Args:
        run: What tells it from an earlier one of the same id, where the other queue lets an id be used again.
        due_ms, expires_ms: Times since 1970; None for now and never.
        place: Where it stands, for its source.
        claimed: It was taken out by an earlier run that did not come to its end.
    """

    id: str
    task: str
    queue: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    run: str = ""
    due_ms: int | None = None
    expires_ms: int | None = None
    place: Any = None
    claimed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Something that is not moved; `why` says what to do."""

    id: str
    task: str
    queue: str
    why: str


class Source(Protocol):
    """Another queue's Redis. Reading changes nothing; `claim` takes one call out, so that nobody else gets it."""

    name: str

    async def queues(self) -> list[str]:
        """The names of its queues."""

    def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """What waits in these queues, the oldest first; before that what earlier runs have claimed."""

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """Take these out of their queues and hold them; False for one that a worker has taken meanwhile."""

    async def forget(self, items: Sequence[Found]) -> None:
        """They are stored in tracked_queue: nothing of them has to stay."""

    async def close(self) -> None:
        """Close the connection."""
