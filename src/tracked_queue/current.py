"""What a job can ask about itself while it runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from .errors import UsageError


class RunningDelivery(Protocol):
    """What the runner knows of a delivery; facts are made only when a job asks for them."""

    attempt: int
    max_attempts: int

    def fact(self, name: str) -> str: ...

    def count(self, name: str) -> int: ...


class CurrentJob:
    """The delivery that runs in this context."""

    __slots__ = ("_delivery", "lease")

    def __init__(self, delivery: RunningDelivery, lease: str) -> None:
        self._delivery = delivery
        self.lease = lease

    def __repr__(self) -> str:
        return f"<CurrentJob {self.id} of {self.task}, attempt {self.attempt} of {self.max_attempts}>"

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt and delivery."""
        return self._delivery.fact("id")

    @property
    def task(self) -> str:
        """The task's name."""
        return self._delivery.fact("task")

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return self._delivery.fact("queue")

    @property
    def attempt(self) -> int:
        """Which run this is, from 1 to `max_attempts`."""
        return self._delivery.attempt

    @property
    def max_attempts(self) -> int:
        """How many runs there are in all."""
        return self._delivery.max_attempts

    @property
    def last_attempt(self) -> bool:
        """Whether the job is dead if this attempt raises."""
        return self.attempt >= self.max_attempts

    @property
    def interruptions(self) -> int:
        """How often a shutdown or an outage handed it back before."""
        return self._delivery.count("interruptions")

    @property
    def recoveries(self) -> int:
        """How often its instance was lost before."""
        return self._delivery.count("recoveries")

    @property
    def delivery(self) -> int:
        """Grows with every hand-over of this job, so that an external system can refuse an older one."""
        return int(self._delivery.fact("delivery"))


# Set by the runner in each job's own context.
current: ContextVar[CurrentJob | None] = ContextVar("tracked_queue_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that runs here. Raises UsageError outside of a job."""
    job = current.get()
    if job is None:
        raise UsageError("current_job() was called outside of a running job")
    return job
