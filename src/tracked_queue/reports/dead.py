"""Dead jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..model.cipher import Cipher
from ..model.codec import decode_error
from ..protocol.text import to_text
from ..transport.store import Store
from .reading import PAGE, now_ms, number_of, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead jobs; None leaves a part open. `reason` matches anywhere in the reason or the error's text."""

    task: str | None = None
    queue: str | None = None
    reason: str | None = None
    older_than: float | None = None

    def matches(self, job: DeadJob) -> bool:
        """Whether one dead job is meant."""
        text = f"{job.reason} {job.error}"
        return (
            (self.task is None or job.task == self.task)
            and (self.queue is None or job.queue == self.queue)
            and (self.reason is None or self.reason.lower() in text.lower())
            and (self.older_than is None or job.age_s >= self.older_than)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """One dead job."""

    id: str
    task: str
    queue: str
    age_s: float
    attempts: int
    charges: int
    reason: str
    error: str


async def read_dead(store: Store, wanted: DeadFilter, cipher: Cipher) -> AsyncIterator[DeadJob]:
    """
    The dead jobs that match, the oldest first, read in pages.

    A page starts after the last job that was read, by time and id, so that removing jobs on the way skips none.
    """
    dead = store.keys.single("dead")
    now = await now_ms(store)
    low, seen_at_low = "-inf", set[bytes]()
    while True:
        (flat,) = await store.read(
            ("ZRANGEBYSCORE", dead, low, "+inf", "WITHSCORES", "LIMIT", 0, PAGE + len(seen_at_low))
        )
        page = [
            (job_id, score) for job_id, score in zip(flat[::2], flat[1::2], strict=True) if job_id not in seen_at_low
        ]
        if not page:
            return
        ids = [job_id for job_id, _ in page]
        records = await store.read_fields(ids, "task", "queue", "attempts", "charges", "reason", "error")
        for (job_id, score), (task, queue, attempts, charges, reason, error) in zip(page, records, strict=True):
            info = decode_error(cipher.peek(error))
            job = DeadJob(
                id=to_text(job_id),
                task=text_of(task),
                queue=text_of(queue),
                age_s=max(0.0, (now - float(score)) / 1000),
                attempts=number_of(attempts),
                charges=number_of(charges),
                reason=text_of(reason),
                error=f"{info.type}: {info.message}" if info else "",
            )
            if wanted.matches(job):
                yield job
        last = text_of(page[-1][1])
        seen_at_low = {job_id for job_id, score in page if text_of(score) == last} | (
            seen_at_low if last == low else set()
        )
        low = last
