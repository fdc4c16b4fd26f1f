"""Which queues an instance serves: in strict order or by weights, and how many jobs of each at most."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from ..errors import UsageError
from ..model.checks import check_list, check_mapping, check_name
from ..model.task import Registry

Queues = Sequence[str] | Mapping[str, float]


class Served:
    """
    The queues of one instance.

    With names alone the order is strict: a later queue is served when the earlier ones are empty. With weights each fetch
    asks in a random order in which a queue comes first as often as its weight says, so that none starves.
    """

    def __init__(self, tasks: Registry, queues: Queues | None, most: Mapping[str, int] | None = None) -> None:
        if queues is not None and not isinstance(queues, Mapping):
            check_list("queues", queues, "names, or a mapping of names to weights")
        self.names = served_queues(tasks, None if queues is None else list(queues))
        self.unknown = [name for name in self.names if name not in tasks.queues()]
        self._weights = dict(queues) if isinstance(queues, Mapping) else {}
        for queue, weight in self._weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
                raise UsageError(f"queue {queue!r}: its weight {weight!r} must be a number above 0")
        self.most = dict(check_mapping("queue_concurrency", most or {}, "queues to whole numbers"))
        for queue, count in self.most.items():
            if queue not in self.names:
                raise UsageError(f"queue concurrency of {queue!r}: this worker doesn't serve that queue")
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise UsageError(f"queue concurrency of {queue!r}: {count!r} must be a whole number, 1 or more")

    def plan(self, owned: Callable[[bytes], int]) -> tuple[list[str], Mapping[str, int]]:
        """The queues to ask now, in order, and how many jobs of each may come."""
        names = self.names
        if self._weights:
            names = sorted(names, key=lambda queue: random.random() ** (1 / self._weights[queue]), reverse=True)
        if not self.most:
            return names, {}
        left = {queue: count - owned(queue.encode()) for queue, count in self.most.items()}
        return [queue for queue in names if left.get(queue, 1) > 0], left

    def cap(self, owned: Callable[[bytes], int]) -> Callable[[bytes], bool] | None:
        """A function that says whether a queue is at its limit in this worker; None if no queue has one."""
        if not self.most:
            return None
        most = {queue.encode(): count for queue, count in self.most.items()}
        return lambda queue: queue in most and owned(queue) >= most[queue]

    def capped(self, owned: Callable[[bytes], int]) -> bool:
        """Whether some queue has as many jobs here as it may have."""
        return bool(self.most) and any(owned(queue.encode()) >= count for queue, count in self.most.items())


def served_queues(tasks: Registry, queues: Sequence[str] | None) -> list[str]:
    """
    The queues to serve, in priority order. One that no task names is served too: jobs go there by `options(queue=...)`.

    Raises:
        UsageError: No tasks, or no queues.
    """
    if not len(tasks):
        raise UsageError(
            "the app has no tasks; import the modules that define them where the app is defined, or name the module "
            "that does"
        )
    if queues is None:
        return tasks.queues()
    if not queues:
        raise UsageError("queues: name at least one, or give None for those of all tasks")
    return list(dict.fromkeys(check_name("queues: queue", queue) for queue in queues))


def parse_queues(given: Sequence[str] | None) -> Queues | None:
    """
    Queues as the command line names them: `critical`, or `critical=5` with a weight.

    Raises:
        UsageError: Some have a weight and some have none, or a weight is not a number.
    """
    if not given:
        return None
    weighted = [item for item in given if "=" in item]
    if not weighted:
        return given
    if len(weighted) != len(given):
        raise UsageError("--queue: give every queue a weight (critical=5), or none for a strict order")
    return {name: _number(text, f"--queue {name}") for name, _, text in (item.rpartition("=") for item in given)}


def parse_most(given: Sequence[str] | None) -> dict[str, int]:
    """`mail=10` of the command line. Raises UsageError."""
    found = {}
    for item in given or ():
        name, equals, text = item.rpartition("=")
        if not equals or not (text.isascii() and text.isdigit()):
            raise UsageError(f"--queue-concurrency {item!r}: write queue=number, such as mail=10")
        found[name] = int(text)
    return found


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{what}: the weight {text!r} is not a number") from None
