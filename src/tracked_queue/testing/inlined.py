"""`inline`: an enqueue runs the job at once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..app import TrackedQueue, producer_of
from ..errors import JobFailedError, UsageError
from ..model.codec import NIL, packed_list
from ..model.hooks import Enqueueing
from ..model.inputs import Results
from ..model.job import Job, JobReader
from ..model.options import JobOptions
from ..model.retry import Dead, Discard, Retry, Snooze, meant_by
from ..model.task import Task
from .calls import call_of, lifespan
from .handles import Done, Failed, NotNeeded
from .places import an_app, in_place_of_redis
from .server import number


@contextlib.asynccontextmanager
async def inline(app: TrackedQueue) -> AsyncIterator[None]:
    """
    An enqueue runs the job at once, here, with its arguments encoded and decoded as they would be; what the job raises,
    the enqueue raises. Chains, groups and `after` work among such jobs. Needs no Redis; the app's lifespan and
    middleware are around it. Timeouts, unique keys, limits and delays are not kept: `QueueKit` has them.
    """
    done: dict[str, _Outcome] = {}
    async with lifespan(producer_of(an_app("inline", app)).definitions.hooks) as state:

        async def run(on_its_way: Enqueueing, call_next: Any) -> Job[Any]:
            task = app.tasks.get(on_its_way.task)
            if task is None:
                raise UsageError(f"inline: this app has no task {on_its_way.task!r}")
            options, signature = on_its_way.options, task.signature
            job_id = on_its_way.id or f"inline-{next(number)}"
            before = [_outcome_of(id, done) for id in options.after_ids]
            given = 1 if options.inputs else 0
            packed = signature.encode(on_its_way.args, on_its_way.kwargs, app.settings.max_payload, given)
            if job_id in done:
                return Job(job_id, False, done[job_id].reader, None)
            skipped = _skipped(job_id, options, before)
            if skipped is not None:
                done[job_id] = skipped
                return Job(job_id, True, skipped.reader, None)
            args, kwargs = signature.decode(*packed, given)
            if given:
                wanted = before[: 1 if options.inputs == "one" else options.wanted]
                results = [outcome.result or NIL for outcome in wanted]
                first: Any
                if signature.streams:
                    first = Results.of(map(signature.decode_first, results))
                else:
                    first = signature.decode_first(results[0] if options.inputs == "one" else packed_list(results))
                args = (first, *args)
            try:
                value = await _insist(
                    task,
                    lambda attempt: call_of(
                        app, task, args, kwargs, job_id, on_its_way.queue, state, on_its_way.headers, attempt
                    ),
                )
            except (Discard, Dead) as wish:
                ended = "dead" if isinstance(wish, Dead) else "failed"
                done[job_id] = _failed(job_id, ended, str(wish))
                return Job(job_id, True, done[job_id].reader, None)
            encoded = b"" if value is None else signature.result.encode(value)
            result = None if value is None else signature.result.decode(encoded)
            done[job_id] = _Outcome(encoded, Done(result), succeeded=True)
            return Job(job_id, True, done[job_id].reader, None)

        with in_place_of_redis(app, run, "this app's jobs run at once (inline), so it must not use Redis"):
            yield


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an inline job ended: its encoded result, and what reads it."""

    result: bytes
    reader: JobReader
    succeeded: bool = False


def _failed(job_id: str, state: str, reason: str) -> _Outcome:
    return _Outcome(b"", Failed(JobFailedError(job_id, state, reason, "", "", "")))


def _skipped(job_id: str, options: JobOptions, before: Sequence[_Outcome]) -> _Outcome | None:
    """The outcome of a job that doesn't run because of how the jobs before it ended; None if it runs."""
    failed = not all(outcome.succeeded for outcome in before)
    if options.on_failure == "fallback" and options.after is not None and not failed:
        return _Outcome(b"", NotNeeded(job_id))
    if options.on_failure == "fail" and failed:
        return _failed(job_id, "failed", "a job that it comes after did not succeed")
    return None


# An inline job that asks for another run gets it at once; one that never stops asking is a mistake in the test.
MOST_RUNS = 100


async def _insist(task: Task[..., Any], call: Callable[[int], Awaitable[Any]]) -> Any:
    """Run a job as often as it asks for it by Retry and Snooze, within its attempts."""
    attempts = 0
    for _ in range(MOST_RUNS):
        try:
            return await call(attempts + 1)
        except BaseException as error:
            wish = meant_by(error)
            if isinstance(wish, Retry):
                attempts += 1
                if attempts >= task.task_options.max_attempts:
                    raise Dead(f"attempts exhausted: {wish}") from error
            elif not isinstance(wish, Snooze):
                if wish is error:
                    raise
                raise wish from error
    raise UsageError(f"inline: job of task {task.name} asked for more than {MOST_RUNS} runs")


def _outcome_of(id: str, done: Mapping[str, _Outcome]) -> _Outcome:
    if id not in done:
        raise UsageError(f"inline: job {id}, which this one comes after, has not run inline")
    return done[id]
