"""The record of a job as people read it: its states and its ledgers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..protocol.states import State


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
class JobEvent:
    """
    Something that happened to a job that is not plain, as its history has it.

    `kind` is an outcome ('retry', 'interrupted', ...), 'recovered' (its instance was lost), 'late' (an outcome that came after
    the job had gone to another delivery), 'cancel' or 'requeued'. `delivery` and `lease` say which run it is about ('' for
    none), and `started_at` when that had started, if that is known.
    """

    at: datetime | None
    kind: str
    delivery: str
    lease: str
    detail: str
    started_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """
    One job's record at the time of the call.

    The three ledgers are never mixed: `attempts` (runs that ended by themselves, and the one that is under way; as
    `current_job().attempt` counts), `interruptions` (handed back by a shutdown or an outage; never charged), `recoveries`
    (its instance was lost) with `charges` (recoveries for which this job is held responsible). `failures` are the last
    five failed runs, the oldest first; `waits_for` is how many of the jobs that this one comes after have not ended.
    `sealed`: a part of it is encrypted, and no key that is at hand opens it.
    `started_at` is None for a run that waited in its instance for a slot, unless a beat has noted its start. `args` and
    `kwargs` are plain data, None where they can't be read. `limits` are the names of those on the record, `lane` is where
    it waits for them, `after` the first 50 of the jobs that it comes after. A plain job has no `history`; of a long one,
    `history_left_out` entries between the first and the last ones are gone.
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
    started_at: datetime | None = None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    unique: str | None = None
    limits: tuple[str, ...] = ()
    lane: str | None = None
    after: tuple[str, ...] = ()
    tracked: bool = True
    history: tuple[JobEvent, ...] = ()
    history_left_out: int = 0
