"""The states of a job."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. The last five are ends; all of them but `dead` are removed after a while."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    ACTIVE = "active"
    PARKED = "parked"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"

    @property
    def ended(self) -> bool:
        """Whether the job will not run again by itself."""
        return self in ENDED


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED, State.DEAD})
