"""Dead jobs, one by one and grouped by what killed them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..model.checks import MAX_SECONDS
from ..model.cipher import Cipher
from ..model.codec import decode_error
from ..protocol.text import to_text
from ..transport.store import Store
from .reading import PAGE, now_ms, number_of, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """
    Which dead jobs; None leaves a part open. `reason` matches anywhere in the reason or the error's text; `group` is the key of
    a DeadGroup.
    """

    task: str | None = None
    queue: str | None = None
    reason: str | None = None
    older_than: float | None = None
    younger_than: float | None = None
    group: str | None = None

    def matches(self, job: DeadJob) -> bool:
        """Whether one dead job is meant."""
        text = f"{job.reason} {job.error}"
        return (
            (self.task is None or job.task == self.task)
            and (self.queue is None or job.queue == self.queue)
            and (self.reason is None or self.reason.lower() in text.lower())
            and (self.older_than is None or job.age_s >= self.older_than)
            and (self.younger_than is None or job.age_s < self.younger_than)
            and (self.group is None or job.group == self.group)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """One dead job; `message` is its error's with what differs from job to job left out, `frame` where it was raised."""

    id: str
    task: str
    queue: str
    age_s: float
    attempts: int
    charges: int
    reason: str
    error: str
    kind: str = ""
    message: str = ""
    frame: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroup:
    """
    Dead jobs of one task that died of the same: of the same class of error, raised at the same place of the code, with messages
    that differ only in numbers, quoted text and the like. `by_time` are their deaths from the first to the last of the window,
    in as many equal parts.
    """

    key: str
    task: str
    kind: str
    message: str
    frame: str
    count: int
    first_at: datetime
    last_at: datetime
    queues: tuple[str, ...]
    sample: tuple[str, ...]
    by_time: tuple[int, ...]


# What differs between errors that are the same: ids, numbers, and what is quoted.
_DIFFERS = re.compile(
    r'''0x[0-9a-fA-F]+|[0-9a-fA-F]{8,}(?:-[0-9a-fA-F]{2,})*|[-+]?\d+(?:\.\d+)?|'[^']{0,200}'|"[^"]{0,200}"'''
)
_FRAME = re.compile(r'File "([^"]{1,300})", line (\d{1,9}), in ([^\n]{1,100})')
_MOST_MESSAGE = 200
# Frames of other people's code.
_FOREIGN = ("site-packages", "/lib/python", "<frozen")


def plain_message(text: str) -> str:
    """An error's message without what differs from job to job."""
    first = text[: 4 * _MOST_MESSAGE].strip().partition("\n")[0]
    return _DIFFERS.sub("…", first)[:_MOST_MESSAGE]


def own_frame(traceback: str) -> str:
    """Where in the application's code it was raised, as file:line function; the last frame if all is other people's."""
    found = _FRAME.findall(traceback[-20_000:])
    own = [one for one in found if not any(part in one[0] for part in _FOREIGN)] or found
    if not own:
        return ""
    file, line, function = own[-1]
    return f"{'/'.join(file.split('/')[-2:])}:{line} {function}"


def group_of(task: str, kind: str, message: str, frame: str) -> str:
    """The key of the group of such deaths."""
    return hashlib.blake2s(
        "\0".join((task, kind, message, frame)).encode("utf-8", "replace"), digest_size=8
    ).hexdigest()


def grouped(jobs: Sequence[DeadJob], now: datetime, parts: int = 24) -> list[DeadGroup]:
    """The groups of these, the largest first."""
    by_key: dict[str, list[DeadJob]] = {}
    for job in jobs:
        by_key.setdefault(job.group, []).append(job)
    span = max([job.age_s for job in jobs], default=0.0) or 1.0
    found = []
    for key, own in by_key.items():
        counts = [0] * parts
        for job in own:
            counts[min(parts - 1, int((span - job.age_s) / span * parts))] += 1
        found.append(
            DeadGroup(
                key=key,
                task=own[0].task,
                kind=own[0].kind,
                message=own[0].message,
                frame=own[0].frame,
                count=len(own),
                first_at=now - timedelta(seconds=max(job.age_s for job in own)),
                last_at=now - timedelta(seconds=min(job.age_s for job in own)),
                queues=tuple(sorted({job.queue for job in own}))[:20],
                sample=tuple(job.id for job in own[:5]),
                by_time=tuple(counts),
            )
        )
    return sorted(found, key=lambda one: (-one.count, one.task, one.key))


async def read_dead(
    store: Store, wanted: DeadFilter, cipher: Cipher, *, newest: bool = False
) -> AsyncIterator[DeadJob]:
    """The dead jobs that match, the oldest first or the newest."""
    async for page in dead_pages(store, cipher, newest=newest):
        for job in page:
            if wanted.matches(job):
                yield job
        if newest and wanted.younger_than is not None and page[-1].age_s >= wanted.younger_than:
            return


async def dead_pages(
    store: Store, cipher: Cipher, *, newest: bool = False, brief: bool = False
) -> AsyncIterator[list[DeadJob]]:
    """
    The dead jobs in pages, the oldest first or the newest; `brief`: without what they died of, which costs the most to read.

    A page starts after the last job that was read, by time and id, so that removing jobs on the way skips none.
    """
    dead = store.keys.single("dead")
    now = await now_ms(store)
    verb, low, end = ("ZREVRANGEBYSCORE", "+inf", "-inf") if newest else ("ZRANGEBYSCORE", "-inf", "+inf")
    seen_at_low = set[bytes]()
    while True:
        (flat,) = await store.read((verb, dead, low, end, "WITHSCORES", "LIMIT", 0, PAGE + len(seen_at_low)))
        page = [
            (job_id, score) for job_id, score in zip(flat[::2], flat[1::2], strict=True) if job_id not in seen_at_low
        ]
        if not page:
            return
        ids = [job_id for job_id, _ in page]
        names = ("task", "queue", "attempts", "charges", *(() if brief else ("reason", "error")))
        records = [(*record, None, None)[:6] for record in await store.read_fields(ids, *names)]
        found = []
        for (job_id, score), (task, queue, attempts, charges, reason, error) in zip(page, records, strict=True):
            info = None if brief else decode_error(cipher.peek(error))
            kind, message = (info.type, plain_message(info.message)) if info else ("", plain_message(text_of(reason)))
            frame = own_frame(info.traceback) if info else ""
            found.append(
                DeadJob(
                    id=to_text(job_id),
                    task=text_of(task),
                    queue=text_of(queue),
                    age_s=min(MAX_SECONDS, max(0.0, (now - float(score)) / 1000)),
                    attempts=number_of(attempts),
                    charges=number_of(charges),
                    reason=text_of(reason),
                    error=f"{info.type}: {info.message}" if info else "",
                    kind=kind,
                    message=message,
                    frame=frame,
                    group="" if brief else group_of(text_of(task), kind, message, frame),
                )
            )
        yield found
        last = text_of(page[-1][1])
        seen_at_low = {job_id for job_id, score in page if text_of(score) == last} | (
            seen_at_low if last == low else set()
        )
        low = last
