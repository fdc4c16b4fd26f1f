"""`health`: probes for Kubernetes and alerts, none of which imports the application."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ..app import TrackedQueue
from ..errors import JobError, StoreRefusedError, UsageError
from ..model.checks import check_name
from ..settings import Settings
from ..worker.exits import FAILED_EXIT
from ..worker.liveness import default_label, liveness_folder, read_signs
from .common import NamespaceOption, UrlOption, clean, cli, fail, guarded, run, seconds, span

READY_LIMIT_S = 4.0


@cli.command()
@guarded
def health(
    live: Annotated[bool, typer.Option("--live", help="This pod's event loop turns; Redis is not asked.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Redis answers and this pod's leases are held.")] = False,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="A queue, with --max-age.")] = None,
    max_age: Annotated[str | None, typer.Option("--max-age", help="Fail if its oldest job is older.")] = None,
    instance_id: Annotated[str | None, typer.Option(help="The worker's label, as it was started with.")] = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Probes for Kubernetes and alerts; none imports the app. Exit 0: well, 1: not, 2: wrong use, 3: no Redis."""
    if live + ready + (queue is not None) != 1:
        raise UsageError("give one of --live, --ready, or --queue with --max-age")
    app = TrackedQueue()
    app.configure(redis_url=redis_url, namespace=namespace, instance_id=instance_id)
    settings = app.settings
    if max_age is not None and queue is None:
        raise UsageError("--max-age is about a queue; give --queue too")
    if queue is not None:
        check_name("queue", queue)
        if max_age is None:
            raise UsageError("--queue needs --max-age")
        _health_queue(app, queue, seconds(max_age))
    else:
        _health_instance(app, settings, ready)


def _health_queue(app: TrackedQueue, queue: str, limit: float) -> None:
    async def work(chosen: TrackedQueue) -> tuple[float | None, bool]:
        async with asyncio.timeout(READY_LIMIT_S):
            return await chosen.operator.queue_age(queue), await chosen.operator.knows(queue=queue)

    try:
        age, known = run(app, work)
    except TimeoutError:
        raise fail("Redis gave no answer in time", FAILED_EXIT) from None
    if age is not None and age > limit:
        raise fail(f"queue {queue}: its oldest job has waited {span(age)}, more than {span(limit)}", FAILED_EXIT)
    empty = "empty" if known else "empty; no job was ever in a queue of this name"
    print(f"queue {clean(queue)}: " + (empty if age is None else f"oldest job {span(age)}"))


def _health_instance(app: TrackedQueue, settings: Settings, ready: bool) -> None:
    label = settings.instance_id or default_label()
    signs = read_signs(settings.namespace, label)
    if liveness_folder(settings.namespace, label) is None:
        raise fail("no folder for temporary files can be read here, so the worker's state is unknown", FAILED_EXIT)
    if not signs:
        raise fail(f"no worker process with the label {label} runs on this machine", FAILED_EXIT)
    for sign in signs:
        if not sign.live:
            raise fail(f"process {sign.pid}: its event loop has not turned for {span(sign.silent_s)}", FAILED_EXIT)
    if not ready:
        print(f"live: {len(signs)} process(es)")
        return

    async def work(chosen: TrackedQueue) -> list[str]:
        async with asyncio.timeout(READY_LIMIT_S):
            return await chosen.operator.unheld({sign.pid: sign.leases for sign in signs})

    try:
        problems = run(app, work)
    except (TimeoutError, StoreRefusedError, JobError) as error:
        raise fail(str(error) or "Redis gave no answer in time", FAILED_EXIT) from None
    if problems:
        raise fail("; ".join(problems), FAILED_EXIT)
    print(f"ready: {len(signs)} process(es)")
