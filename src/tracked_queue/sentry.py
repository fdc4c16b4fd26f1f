"""
Reporting failed runs to Sentry (extra `sentry`): each once, with the job's id, task, queue and attempt, and no arguments.

Source: docs/how-to/errors.md.
"""

from __future__ import annotations

from typing import Any

from .app import TrackedQueue
from .errors import UsageError
from .model.context import CurrentJob
from .model.retry import Signal


def report_failures(app: TrackedQueue, *, retries: bool = True) -> None:
    """
    Report each run that fails: one that raises, or takes longer than its timeout.

    What a job raises on purpose (Snooze, Discard, Dead, Retry), a cancellation and an interruption are not reported. Local
    variables are taken out of the frames, since they hold arguments.

    Args:
        retries: Whether runs that will be retried are reported, too.

    Raises:
        UsageError: sentry-sdk is not installed.
    """
    try:
        import sentry_sdk
    except ModuleNotFoundError:
        raise UsageError("report_failures needs sentry-sdk: pip install 'tracked-queue[sentry]'") from None

    def report(job: CurrentJob, error: BaseException, retried: bool) -> None:
        if isinstance(error, Signal) or (retried and not retries):
            return
        with sentry_sdk.new_scope() as scope:
            scope.set_transaction_name(job.task)
            for name, value in (("task", job.task), ("queue", job.queue), ("job_id", job.id)):
                scope.set_tag(name, value)
            scope.set_context(
                "job",
                {
                    "id": job.id,
                    "task": job.task,
                    "queue": job.queue,
                    "attempt": job.attempt,
                    "max_attempts": job.max_attempts,
                    "retried": retried,
                    "lease": job.lease,
                },
            )
            scope.add_event_processor(_without_variables)
            sentry_sdk.capture_exception(error)

    app.on_failure(report)


def _without_variables(event: Any, _hint: Any) -> Any:
    for value in (event.get("exception") or {}).get("values") or ():
        for frame in (value.get("stacktrace") or {}).get("frames") or ():
            frame.pop("vars", None)
    return event
