"""A job in this instance, from its fetch to its outcome, and what all deliveries of a task have in common."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..model.hooks import RunSpan
from ..model.task import Task
from ..protocol.text import to_text
from ..protocol.transitions import FetchedJob
from .invoke import Invoke
from .lanes import JobThread
from .outcome import Cause
from .times import Times

# The delivery number of a job that needs no settling.
UNTRACKED = b"0"


class Recipe:
    """What every delivery of a task takes, worked out once for a worker."""

    __slots__ = (
        "_unusual",
        "call",
        "keep_ms",
        "max_attempts",
        "name",
        "queue",
        "runs",
        "task",
        "timeout",
        "waits",
        "well",
    )

    def __init__(self, task: Task[..., Any], call: Invoke, result_ttl: float, times: Times) -> None:
        options = task.task_options
        self.task, self.call, self.name = task, call, task.name
        self.runs, self.waits = times.runs_of(task.name), times.waits_of(options.queue.encode())
        self.queue, self.well = options.queue.encode(), 0  # how many runs in this queue have succeeded
        self._unusual: dict[tuple[bytes, str], int] = {}  # those in other queues, and with other outcomes
        self.timeout, self.max_attempts = options.timeout_s, options.max_attempts
        # How long the record of an ended job stays.
        self.keep_ms = round((result_ttl if options.result_ttl_s is None else options.result_ttl_s) * 1000)

    def note(self, queue: bytes, outcome: str) -> None:
        """A run has ended in another queue, or not well; '' stands for a success."""
        key = queue, outcome or "succeeded"
        self._unusual[key] = self._unusual.get(key, 0) + 1

    @property
    def outcomes(self) -> dict[tuple[bytes, str], int]:
        """How many runs have ended, by queue and outcome. May be asked in any thread."""
        found = self._unusual.copy()
        return {**found, (self.queue, "succeeded"): self.well} if self.well else found


class Delivery:
    """A job in this instance, from its fetch to its outcome."""

    # What only few deliveries set or ask for; what each one asks for is set below, since a class' value takes longer to find.
    begun = False
    deadline = math.inf
    started_at = 0.0
    start_told = False
    asyncio_task: asyncio.Task[None] | None = None
    headers: Mapping[str, Any] = MappingProxyType({})
    tick_ms: int | None = None
    span: RunSpan | None = None
    thread: JobThread | None = None

    def __init__(self, job: FetchedJob, recipe: Recipe) -> None:
        self.job, self.recipe, self.task = job, recipe, recipe.task
        self.cause: Cause | None = None
        self.settled = False
        self.buffered_at = 0.0
        self.outcome = ""  # '' until it has one, and for a success
        self.inputs = ""
        self.context: Mapping[str, Any] | None = None
        self.exhausted_by: BaseException | None = None
        self.attempt = job.attempts + 1
        self.untracked = job.delivery == UNTRACKED
        self.timeout, self.max_attempts = recipe.timeout, recipe.max_attempts

    @property
    def id(self) -> str:
        """The job's id as text."""
        return to_text(self.job.id)

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return to_text(self.job.queue)

    @property
    def number(self) -> int:
        """The delivery's number, which fences."""
        return int(self.job.delivery)

    @property
    def interruptions(self) -> int:
        """Of earlier deliveries."""
        return self.job.interruptions

    @property
    def recoveries(self) -> int:
        """Of earlier deliveries."""
        return self.job.recoveries

    @property
    def checkpoint(self) -> bytes:
        """What an earlier delivery stored, encoded."""
        return self.job.checkpoint
