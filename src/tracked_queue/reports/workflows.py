"""The jobs around one job: what it comes after, and what waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.codec import decode_any
from ..protocol.text import to_bytes
from ..transport.store import Store
from .reading import number_of, text_of

# How many jobs of a workflow are shown, and how many that wait for one job.
MOST_JOBS, MOST_FOLLOWERS = 200, 100
# A record names so many of the jobs that it comes after; see lua/enqueue.lua.
MOST_BEFORE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowJob:
    """One of them; `after` are those of the shown ones that it comes after, `waits` how many of all of those have not ended."""

    id: str
    task: str
    queue: str
    state: str
    reason: str
    after: tuple[str, ...]
    waits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """
    The jobs around `root`, each after those that it comes after; not `whole`: there are more. An ended job no longer knows what
    came after it.
    """

    root: str
    jobs: tuple[WorkflowJob, ...]
    whole: bool


async def read_workflow(store: Store, job_id: str) -> Workflow:
    """Read them, level by level from the job in both directions; jobs of a workflow are in one shard."""
    records: dict[str, WorkflowJob] = {}
    whole, wanted = True, [job_id]
    while wanted:
        room = MOST_JOBS - len(records)
        whole, ids = whole and len(wanted) <= room, wanted[:room]
        found = await store.read_fields(
            [to_bytes(one) for one in ids], "task", "queue", "state", "reason", "after", "waits"
        )
        lists = await store.read(*(("LRANGE", store.keys.named("followers", one), 0, MOST_FOLLOWERS) for one in ids))
        nearby: list[str] = []
        for one, (task, queue, state, reason, after, waits), followers in zip(ids, found, lists, strict=True):
            before = _names(after)
            records[one] = WorkflowJob(
                id=one,
                task=text_of(task),
                queue=text_of(queue),
                state=text_of(state),
                reason=text_of(reason),
                after=before,
                waits=number_of(waits) if state == b"waiting" else 0,
            )
            whole = whole and len(followers) <= MOST_FOLLOWERS and len(before) < MOST_BEFORE
            nearby += [*before, *map(text_of, followers[:MOST_FOLLOWERS])]
        wanted = [one for one in dict.fromkeys(nearby) if one not in records]
        if len(records) == MOST_JOBS:
            whole, wanted = whole and not wanted, []
    return Workflow(root=job_id, jobs=tuple(_ordered(records)), whole=whole)


def _names(packed: bytes | None) -> tuple[str, ...]:
    try:
        found = decode_any(packed)
    except ValueError:
        return ()
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def _ordered(records: dict[str, WorkflowJob]) -> list[WorkflowJob]:
    """Each after those that it comes after; what forms a circle, which no script makes, comes last."""
    done: dict[str, WorkflowJob] = {}
    left = dict(records)
    while left:
        ready = [one for one in left.values() if all(before in done or before not in records for before in one.after)]
        for one in ready or list(left.values()):
            done[one.id] = left.pop(one.id)
    return list(done.values())
