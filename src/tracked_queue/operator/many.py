"""Acts on many jobs at once: which ones, at what pace, how far it has got, and when it is to stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, get_args

from ..errors import UsageError, did_you_mean
from ..model.checks import check_name, check_text, to_seconds
from ..model.cipher import Cipher
from ..protocol.text import to_text
from ..reports.dead import DeadFilter, dead_pages
from ..reports.instances import read_instances
from ..reports.listing import LISTED_STATES, MOST_READ, JobFilter, ListedState, Place, list_jobs
from ..reports.reading import PAGE, scan, text_of
from ..transport.store import Store

T = TypeVar("T")
SelectedState = ListedState | Literal["lost"]
ManyAction = Literal["requeue", "purge", "cancel", "delete", "run_now", "recover", "discard"]
# What can be done with the jobs of each state.
ENDED = ("succeeded", "failed", "cancelled", "expired")
OPEN = ("queued", "scheduled", "retrying", "waiting", "parked", "active")
ALLOWED: dict[ManyAction, tuple[str, ...]] = {
    "requeue": ("dead",),
    "purge": ("dead",),
    "cancel": OPEN,
    "delete": ENDED,
    "run_now": ("scheduled", "retrying"),
    "recover": ("lost",),
    "discard": ("lost",),
}
# Words of the scripts that say that what was asked for was done, or will be.
DONE_WORDS: dict[ManyAction, tuple[str, ...]] = {
    "requeue": ("ok",),
    "purge": ("ok",),
    "cancel": ("cancelled", "requested"),
    "delete": ("ok",),
    "run_now": ("ok",),
    "recover": ("requeued", "unstarted", "interrupted", "cancelled", "dead"),
    "discard": ("cancelled",),
}
MANY_ACTIONS: tuple[ManyAction, ...] = get_args(ManyAction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Which jobs: of a state, and if given of a queue and a task, with a text in the reason, that have been so for some seconds;
    of the dead also those that died within `younger_s`, and those of a group. `lost` are those of instances that are gone, or
    of one `lease` of them.

    Raises:
        UsageError: A part is not what it should be, or does not go with the state.
    """

    state: SelectedState
    queue: str | None = None
    task: str | None = None
    error: str | None = None
    older_s: float | None = None
    younger_s: float | None = None
    group: str | None = None
    lease: str | None = None

    def __post_init__(self) -> None:
        states = (*LISTED_STATES, "lost")
        if self.state not in states:
            raise UsageError(f"state={self.state!r}; {did_you_mean(str(self.state), states)}")
        for kind, name in (("queue", self.queue), ("task", self.task), ("group", self.group), ("lease", self.lease)):
            if name is not None:
                check_name(kind, name)
        if self.error is not None:
            check_text("error", self.error)
        if self.older_s is not None:
            to_seconds("older_s", self.older_s)
        if self.younger_s is not None:
            to_seconds("younger_s", self.younger_s)
        if self.state != "dead" and (self.group, self.younger_s) != (None, None):
            raise UsageError("group= and younger_s= go with state='dead'")
        if self.state != "lost" and self.lease is not None:
            raise UsageError("lease= goes with state='lost'")
        if self.state == "lost" and (self.error, self.older_s) != (None, None):
            raise UsageError("error= and older_s= don't go with state='lost'")

    @classmethod
    def of_dead(cls, wanted: DeadFilter) -> Selection:
        """The dead jobs that match a filter."""
        return cls(
            state="dead",
            queue=wanted.queue,
            task=wanted.task,
            error=wanted.reason,
            older_s=wanted.older_than,
            younger_s=wanted.younger_than,
            group=wanted.group,
        )

    @property
    def dead_filter(self) -> DeadFilter:
        """What dead jobs are selected by."""
        return DeadFilter(
            queue=self.queue,
            task=self.task,
            reason=self.error,
            older_than=self.older_s,
            younger_than=self.younger_s,
            group=self.group,
        )


class Candidate(NamedTuple):
    """A job that was selected; `lease` is that of a lost one."""

    shard: int
    id: str
    task: str
    queue: str
    lease: str = ""


@dataclass(slots=True, kw_only=True)
class Course:
    """
    How far an act on many jobs has got: how many were done, and how many were not, by the reason; and how many records were
    looked at to find them. `stop()` ends it with the batch under way.
    """

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    stopping: bool = False

    def stop(self) -> None:
        """Begin no further batch."""
        self.stopping = True

    @property
    def seen(self) -> int:
        """How many it has come to."""
        return self.done + self.refused.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """
    How many jobs were found, and the first of them; not `exact`: there are at least so many, since not all records were
    looked at.
    """

    number: int
    exact: bool
    looked_at: int
    sample: tuple[Candidate, ...]


async def candidates(
    stores: Sequence[Store], which: Selection, cipher: Cipher, *, course: Course | None = None
) -> AsyncIterator[Candidate]:
    """
    The selected jobs, shard by shard, in the order of their lists; dead ones the oldest first. None after `course.stop()`. One
    that was left alone may come a second time.
    """
    course = course or Course()
    for shard, store in enumerate(stores):
        if which.state == "dead":
            wanted = which.dead_filter
            brief = which.error is None and which.group is None
            async for page in dead_pages(store, cipher, brief=brief):
                course.looked_at += len(page)
                for one in page:
                    if wanted.matches(one):
                        yield Candidate(shard, one.id, one.task, one.queue)
                if course.stopping:
                    return
        elif which.state == "lost":
            async for lost in _lost(store, shard, which):
                course.looked_at += 1
                yield lost
        else:
            rule = JobFilter(queue=which.queue, task=which.task, error=which.error, older_s=which.older_s)
            place: Place | None = Place()
            while place is not None:
                found = await list_jobs(store, which.state, rule, limit=PAGE, after=place, most_read=PAGE)
                course.looked_at += found.looked_at
                for row, _ in found.rows:
                    yield Candidate(shard, row.id, row.task, row.queue)
                place = None if course.stopping else found.end


async def _lost(store: Store, shard: int, which: Selection) -> AsyncIterator[Candidate]:
    for instance in await read_instances(store):
        if instance.alive or not instance.owned or which.lease not in (None, instance.lease):
            continue
        ids = {
            job_id async for page in scan(store, "SSCAN", store.keys.processing_of(instance.lease)) for job_id in page
        }
        ordered = sorted(ids)
        for at in range(0, len(ordered), PAGE):
            page = ordered[at : at + PAGE]
            for job_id, (task, queue) in zip(page, await store.read_fields(page, "task", "queue"), strict=True):
                found = Candidate(shard, to_text(job_id), text_of(task), text_of(queue), instance.lease)
                if which.task in (None, found.task) and which.queue in (None, found.queue):
                    yield found


async def count(
    stores: Sequence[Store],
    which: Selection,
    cipher: Cipher,
    most: int = MOST_READ,
    allowed: Callable[[str, str], bool] | None = None,
) -> Count:
    """How many are selected, by about `most` records that are looked at; without those for which `allowed` is false."""
    found, sample, course = 0, list[Candidate](), Course()
    async for one in candidates(stores, which, cipher, course=course):
        if allowed is not None and not allowed(one.queue, one.task):
            continue
        found += 1
        if len(sample) < 5:
            sample.append(one)
        if course.looked_at >= most or found == most:
            course.stop()
        if found == most:
            break
    return Count(number=found, exact=not course.stopping, looked_at=course.looked_at, sample=tuple(sample))


def by_place(batch: Sequence[Candidate]) -> dict[tuple[int, str], list[str]]:
    """Their ids by what one call can be about: a shard, and of lost ones a lease."""
    found: dict[tuple[int, str], list[str]] = {}
    for one in batch:
        found.setdefault((one.shard, one.lease), []).append(one.id)
    return found


async def paced(items: AsyncIterator[T], size: int, rate: float | None, course: Course) -> AsyncIterator[list[T]]:
    """Batches of at most `size`, so that not more than `rate` a second have been given out; none after `course.stop()`."""
    size = size if rate is None else max(1, min(size, int(rate)))
    started, sent = time.monotonic(), 0
    async for batch in batches(items, size):
        if rate is not None:
            await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
        if course.stopping:
            return
        yield batch
        sent += len(batch)


async def batches(items: AsyncIterator[T], size: int) -> AsyncIterator[list[T]]:
    """Lists of at most so many."""
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
