"""
Which of a job's keys and limits decides its shard, where there are several.

A unique key or a limit is kept by one shard, so all jobs that share it have to be there. A job with several of them goes by
the one that every other implies: jobs of one tenant and document are also jobs of that tenant. Where there is no such
one, the combination is always refused, not only for some arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..model.constraints import Key, Limit, Unique
from .shards import Shards

Constraint = Unique | Limit


def deciding(
    task: str, queue: str, unique: Unique | None, limits: Sequence[Limit], of_queue: Sequence[Limit]
) -> Constraint | None:
    """
    What decides the shard of a task's jobs in a queue; None if nothing does.

    Raises:
        UsageError: Two of them would need different shards.
    """
    own: list[Constraint] = [
        *([unique] if unique is not None else []),
        *(limit for limit in limits if limit.name is None),
    ]
    shared = [*(limit for limit in limits if limit.name is not None), *of_queue]
    if of_queue and (limits or unique is not None):
        raise UsageError(
            f"task {task}: with several shards its own limits or unique key and those of queue {queue!r} can't both be kept; "
            "each would be in a shard of its own"
        )
    if len(shared) > 1:
        raise UsageError(
            f"task {task}: with several shards a job can have one limit that others share: a named one, or one of its queue"
        )
    # All arguments imply any key that is made of them; so such a key decides only where there is no other.
    sized = [constraint for constraint in own if _parts(constraint) is not None] or own
    first = shared[0] if shared else min(sized, key=lambda constraint: len(_parts(constraint) or ()), default=None)
    for other in own:
        if first is not None and other is not first and not _implies(other, first):
            raise UsageError(
                f"task {task}: with several shards all its keys must have one in common: jobs of {_shown(other)} can differ in "
                f"{_shown(first)}, which decides their shard; add that to the former's key"
            )
    return first


def required_shards(
    shards: Shards,
    task: str,
    queue: str,
    unique: Unique | None,
    limits: Sequence[Limit],
    of_queue: Sequence[Limit],
    bounds: Mapping[str, Any],
) -> list[tuple[str, int]]:
    """Why and where a job with these bounds (see options.bounds_of) has to be; empty if anywhere. Raises UsageError."""
    constraint = deciding(task, queue, unique, limits, of_queue)
    if constraint is None:
        return []
    if isinstance(constraint, Unique):
        return [("its unique key", shards.of_text(f"unique:{bounds['unique'][0]}"))]
    name = bounds["limits"][[*limits, *of_queue].index(constraint)][0]
    return [(f"the limit {name}", shards.of_text(f"limit:{name}"))]


def _parts(constraint: Constraint) -> frozenset[Hashable] | None:
    """What a key is made of; None for all arguments."""
    key: Key | None = constraint.by if isinstance(constraint, Unique) else constraint.key
    if key is None:
        return None if isinstance(constraint, Unique) else frozenset()
    return frozenset([key] if isinstance(key, str) or callable(key) else key)


def _implies(one: Constraint, other: Constraint) -> bool:
    """Whether jobs with the same key of one have the same key of the other."""
    parts, wanted_parts = _parts(one), _parts(other)
    return parts is None or (wanted_parts is not None and wanted_parts <= parts)


def _shown(constraint: Constraint) -> str:
    parts = _parts(constraint)
    what = "the same unique key" if isinstance(constraint, Unique) else "the same limit"
    names = sorted(part if isinstance(part, str) else getattr(part, "__name__", "a function") for part in parts or ())
    return f"{what} (by {', '.join(names)})" if names else what
