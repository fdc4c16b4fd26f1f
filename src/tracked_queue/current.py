"""What a job can ask about itself while it runs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentJob:
    """
    The delivery that runs in this context.

    `attempt` counts from 1 to `max_attempts`; `delivery` grows with every hand-over of this job, so that an external
    system can refuse an older one.
    """

    id: str
    task: str
    queue: str
    attempt: int
    max_attempts: int
    interruptions: int
    recoveries: int
    delivery: int
    lease: str

    @property
    def last_attempt(self) -> bool:
        """Whether the job is dead if this attempt raises."""
        return self.attempt >= self.max_attempts


# Set by the runner in each job's own context.
current: ContextVar[CurrentJob | None] = ContextVar("tracked_queue_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that runs here. Raises UsageError outside of a job."""
    job = current.get()
    if job is None:
        raise UsageError("current_job() was called outside of a running job")
    return job
