"""Workflows: a chain of jobs, a group with a fan-in, a batch with progress; all are jobs that come after others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..protocol.states import State
from ..settings import Seconds
from .checks import check_list, to_seconds
from .job import Job
from .options import MAX_AFTER
from .task import PreparedCall, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How many jobs of a batch have ended, and how many of those without success."""

    done: int
    unsuccessful: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The jobs of a group or batch, and those that come after them."""

    jobs: tuple[Job[Any], ...]
    then: Job[Any] | None = None
    success: Job[Any] | None = None
    complete: Job[Any] | None = None

    async def results(self, timeout: Seconds | None = None) -> list[Any]:
        """
        The jobs' results in their order; raises as `Job.result` for the first that did not succeed.

        Args:
            timeout: Seconds (or a timedelta) for all of them together.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + to_seconds("timeout", timeout)
        return [await job.result(None if deadline is None else max(0.0, deadline - loop.time())) for job in self.jobs]

    async def progress(self) -> BatchProgress:
        """How far it is; a job whose record has been removed since it ended counts as done."""
        states = await self.jobs[0].states_of(self.jobs) if self.jobs else []
        ended = [state for state in states if state is None or state.ended]
        unsuccessful = sum(state is not None and state is not State.SUCCEEDED for state in ended)
        return BatchProgress(done=len(ended), unsuccessful=unsuccessful, total=len(states))


def check_calls(
    what: str, calls: Any, enqueuer: object, kinds: tuple[type, ...] = (PreparedCall,), most: float = MAX_AFTER
) -> None:
    """Refuse anything but calls of this app's tasks (or what else `kinds` allows), and more than `most` of them."""
    how = "task.call(...)"
    if Step in kinds:
        how += " or task.step(...)"
    for position, call in enumerate(check_list(what, calls, f"calls made by {how}")):
        # The usual case, of which there may be a million.
        if (
            type(call) is PreparedCall
            and PreparedCall in kinds
            and call.task is not None
            and call.task.enqueuer is enqueuer
        ):
            continue
        if isinstance(call, Job) and Job in kinds:
            continue
        if not isinstance(call, kinds) or not isinstance(call, PreparedCall | Step):
            raise UsageError(f"{what}: item {position} is a {type(call).__qualname__}; make it with {how}")
        if call.task is not None and call.task.enqueuer is not enqueuer:
            _refuse_app(f"{what}: item {position}", call)
    if len(calls) > most:
        raise UsageError(f"{what}: {len(calls)} jobs; one job can come after at most {MAX_AFTER}, so split it")


def check_step(what: str, step: Any, enqueuer: object) -> None:
    """Refuse what is not a step."""
    if step is None:
        return
    if not isinstance(step, PreparedCall | Step):
        raise UsageError(f"{what}: {step!r} must be made with task.step(...) or task.call(...)")
    if step.task.enqueuer is not enqueuer:
        _refuse_app(what, step)


def _refuse_app(what: str, call: PreparedCall[Any] | Step) -> None:
    raise UsageError(
        f"{what} is a call of task {call.task.name}, which belongs to another app; store it through that one"
    )
