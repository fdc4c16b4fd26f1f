"""Django's priorities, -100 to 100, as three queues behind one name: above 0, 0, and below."""

from __future__ import annotations

from collections.abc import Sequence

HIGH, LOW = ".high", ".low"


def queue_of(name: str, priority: int) -> str:
    """Where a job of this queue and priority waits."""
    return name + (HIGH if priority > 0 else LOW if priority < 0 else "")


def name_of(queue: str) -> str:
    """Django's name of a queue."""
    return queue.removesuffix(HIGH).removesuffix(LOW)


def queues_of(names: Sequence[str]) -> list[str]:
    """The queues behind these names in the order in which a worker serves them: by priority, then as they are named."""
    return [name + band for band in (HIGH, "", LOW) for name in dict.fromkeys(names)]
