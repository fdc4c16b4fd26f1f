"""The record of a job as people read it: its states and its ledgers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from .errors import UsageError

MAX_NAME = 256


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """The last error of a job, as text: the class is never rebuilt from what Redis holds."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(ErrorInfo):
    """One failed run: its error, when it was recorded, and by which lease."""

    at: datetime | None
    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job said it is; `total` None where it did not say."""

    done: float
    total: float | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that a job kept."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """
    One job's record at the time of the call.

    The three ledgers are never mixed: `attempts` (runs that ended by themselves, and the one that is under way; as
    `current_job().attempt` counts), `interruptions` (handed back by a shutdown or an outage; never charged), `recoveries`
    (its instance was lost) with `charges` (recoveries for which this job is held responsible). `failures` are the last
    five failed runs, the oldest first; `waits_for` is how many of the jobs that this one comes after have not ended.
    `sealed`: something of it is encrypted, and no key that is at hand opens it.
    """

    id: str
    task: str
    queue: str
    state: State
    attempts: int
    interruptions: int
    recoveries: int
    charges: int
    delivery: int | None
    lease: str | None
    cancel_requested: bool
    queued_at: datetime | None
    due_at: datetime | None
    fetched_at: datetime | None
    finished_at: datetime | None
    reason: str | None
    error: ErrorInfo | None
    failures: tuple[Failure, ...]
    snoozes: int
    waits_for: int
    progress: Progress | None
    checkpoint: Any
    lines: tuple[LogLine, ...]
    result: Any
    sealed: bool = False


def check_name(kind: str, name: object) -> str:
    """
    A job id, queue or task name that may go to Redis: 1 to 256 characters of printable text.

    Raises:
        UsageError: Says which name and why.
    """
    if not isinstance(name, str):
        raise UsageError(f"{kind} {name!r}: it must be text, and is {type(name).__name__}")
    if not name or len(name) > MAX_NAME:
        shown = name[:40] + "…" if len(name) > MAX_NAME else name
        raise UsageError(f"{kind} {shown!r}: it has {len(name)} characters; allowed are 1 to {MAX_NAME}")
    if not name.isprintable():
        raise UsageError(f"{kind} {name!r}: only printable characters are allowed")
    return name
