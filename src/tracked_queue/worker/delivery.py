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
from ..protocol.transitions import FetchedJob, OutcomeKind
from .invoke import Invoke
from .outcome import Cause

# The delivery number of a job that needs no settling.
UNTRACKED = b"0"


class Recipe:
    """What every delivery of a task takes, worked out once for a worker."""

    __slots__ = ("call", "keep_ms", "max_attempts", "name", "outcomes", "runs", "task", "timeout")

    def __init__(self, task: Task[..., Any], call: Invoke, result_ttl: float, runs: list[int]) -> None:
        options = task.task_options
        self.task, self.call, self.name = task, call, task.name
        self.runs = runs  # see Times.runs_of
        self.outcomes: dict[tuple[bytes, OutcomeKind], int] = {}  # of runs, by queue
        self.timeout, self.max_attempts = options.timeout_s, options.max_attempts
        # How long the record of an ended job stays.
        self.keep_ms = round((result_ttl if options.result_ttl_s is None else options.result_ttl_s) * 1000)


class Delivery:
    """A job in this instance, from its fetch to its outcome."""

    # Most deliveries never set these; as values of the class they cost nothing for each job.
    cause: Cause | None = None
    begun = False
    settled = False
    deadline = math.inf
    started_at = 0.0
    buffered_at = 0.0
    start_told = False
    asyncio_task: asyncio.Task[None] | None = None
    exhausted_by: BaseException | None = None
    headers: Mapping[str, Any] = MappingProxyType({})
    context: Mapping[str, Any] | None = None
    inputs = ""
    span: RunSpan | None = None
    outcome = ""
    tick_ms: int | None = None

    def __init__(self, job: FetchedJob, recipe: Recipe) -> None:
        self.job, self.recipe, self.task = job, recipe, recipe.task
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
