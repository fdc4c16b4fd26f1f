"""What docs/how-to/errors.md promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from structlog.testing import capture_logs

from tests.features.common import QUICKLY
from tests.harness import running_worker
from tracked_queue import CurrentJob, Discard, Job, JobFailedError, Snooze, TrackedQueue, UsageError
from tracked_queue.sentry import report_failures

Told = list[tuple[str, int, str, bool]]


def listened(app: TrackedQueue) -> Told:
    told: Told = []

    @app.on_failure
    def report(job: CurrentJob, error: BaseException, retried: bool) -> None:
        told.append((job.task, job.attempt, f"{type(error).__name__}: {error}", retried))

    return told


async def all_dead(app: TrackedQueue, *jobs: Job[Any]) -> None:
    """Run them until all their attempts have failed."""
    async with running_worker(app):
        for job in jobs:
            with pytest.raises(JobFailedError):
                await job.result(20)


async def test_each_failed_run_is_told_once(app: TrackedQueue) -> None:
    told = listened(app)

    @app.task(name="raises", max_attempts=3, retry=QUICKLY)
    async def raises() -> None:
        raise ValueError("no")

    @app.task(name="slow", max_attempts=1, timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(30)

    jobs = [await raises.enqueue(), await slow.enqueue()]
    await all_dead(app, *jobs)
    assert [one for one in told if one[0] == "raises"] == [
        ("raises", attempt, "ValueError: no", attempt < 3) for attempt in (1, 2, 3)
    ]
    (timed_out,) = [one for one in told if one[0] == "slow"]
    assert "longer than its timeout" in timed_out[2] and not timed_out[3]


async def test_what_is_no_failure_is_not_told(app: TrackedQueue) -> None:
    told = listened(app)
    snoozed: set[int] = set()

    @app.task(name="well")
    async def well(n: int) -> int:
        if n == 1 and n not in snoozed:
            snoozed.add(n)
            raise Snooze(0.01)
        if n == 2:
            raise Discard("not wanted")
        return n

    for n in range(3):
        await well.enqueue(n)
    await app.run_worker(burst=True, handle_signals=False)
    assert told == []


async def test_a_hook_that_raises_changes_nothing(app: TrackedQueue) -> None:
    @app.on_failure
    def broken(job: CurrentJob, error: BaseException, retried: bool) -> None:
        raise RuntimeError("hook")

    told = listened(app)

    @app.task(name="raises", max_attempts=1)
    async def raises() -> None:
        raise ValueError("no")

    job = await raises.enqueue()
    with capture_logs() as logs:
        await app.run_worker(burst=True, handle_signals=False)
    assert (await job.info()).state == "dead" and len(told) == 1
    assert [one["hook"] for one in logs if one["event"] == "hook.failed"] == ["on_failure"]


async def test_a_wrong_hook_is_refused(app: TrackedQueue) -> None:
    async def waits(job: CurrentJob, error: BaseException, retried: bool) -> None: ...

    for wrong in (waits, lambda job: None, "report"):
        with pytest.raises(UsageError, match="on_failure"):
            app.on_failure(wrong)  # type: ignore[arg-type]


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__({"dsn": "https://key@localhost/1"})
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


@pytest.fixture
def kept() -> Iterator[Kept]:
    transport = Kept()
    sentry_sdk.init(dsn="https://key@localhost/1", transport=transport, default_integrations=False)
    yield transport
    sentry_sdk.init()


@pytest.mark.parametrize("retries", [True, False])
async def test_sentry_gets_each_failure_with_the_job_and_no_arguments(
    app: TrackedQueue, kept: Kept, retries: bool
) -> None:
    report_failures(app, retries=retries)

    @app.task(name="charge", max_attempts=3, retry=QUICKLY)
    async def charge(card: str) -> None:
        token = card.upper()
        if len(token) > 3:
            raise ValueError("declined")
        raise Discard("never")

    secret = f"secret-{4000 + 242}"  # not as such in these lines, which a frame shows too
    job = await charge.enqueue(secret)
    await charge.enqueue("ok")
    await all_dead(app, job)
    assert len(kept.events) == (3 if retries else 1)
    last = kept.events[-1]
    assert last["exception"]["values"][-1]["type"] == "ValueError" and last["transaction"] == "charge"
    assert last["tags"] == {"task": "charge", "queue": "default", "job_id": job.id}
    assert last["contexts"]["job"]["attempt"] == 3 and last["contexts"]["job"]["retried"] is False
    text = json.dumps(kept.events, default=str).lower()
    assert "4242" not in text, "no argument, not even in a frame's variables"
