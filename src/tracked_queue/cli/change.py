"""`enqueue`, `cancel`, `pause`, `resume`, `recover`, `quiet`: the commands that change something, and log by whom."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .. import reports, transitions
from ..app import TrackedQueue
from ..errors import JobFailedError, UsageError
from ..job import check_name
from .common import (
    EXIT_FAILED,
    AppOption,
    JsonOption,
    NamespaceOption,
    UrlOption,
    acted,
    chosen_app,
    clean,
    cli,
    fail,
    guarded,
    print_json,
    run,
    seconds,
    setup_logging,
)


@cli.command()
@guarded
def enqueue(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Option(help="Positional arguments, a JSON array.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Named arguments, a JSON object.")] = "{}",
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    id: Annotated[str | None, typer.Option(help="The job's id.")] = None,
    delay: Annotated[str | None, typer.Option(help="90, 90s, 15m, 2h, 7d.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait so long for the result and print it.")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store one job; prints its id."""
    setup_logging()
    positional, named = _json("args", args, list), _json("kwargs", kwargs, dict)
    delay_s = seconds(delay) if delay else None
    wait_s = seconds(wait) if wait else None

    async def work(chosen: TrackedQueue) -> tuple[Any, Any]:
        sender = chosen.options(id=id, queue=queue, delay=delay_s)
        stored = await sender.enqueue(task, *positional, **named)
        acted("enqueue", job_id=stored.id, task=task, created=stored.created)
        return stored, await stored.result(timeout=wait_s) if wait_s is not None else None

    try:
        stored, result = run(chosen_app(app, redis_url, namespace), work)
    except TimeoutError as error:
        raise fail(str(error), EXIT_FAILED) from None
    except JobFailedError as error:
        print(error.job_id)
        raise fail(f"it is {error.state}: {error.reason}; see `job {error.job_id}`", EXIT_FAILED) from None
    if as_json:
        print_json({"id": stored.id, "created": stored.created, **({"result": result} if wait else {})})
    else:
        print(stored.id if stored.created else f"{stored.id} (exists already; nothing was added)")
        if wait:
            print_json(result)


def _json(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--{name}: it is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise UsageError(f"--{name}: it must be a JSON {'array' if kind is list else 'object'}")
    return value


@cli.command()
@guarded
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Cancel jobs: at once if they have not started, else within a second."""
    setup_logging()
    for job_id in ids:
        check_name("job id", job_id)

    async def work(chosen: TrackedQueue) -> list[transitions.CancelWord]:
        keep = max(chosen.settings.result_ttl, chosen.settings.resend_window)
        words: list[transitions.CancelWord] = []
        for at in range(0, len(ids), transitions.MAX_BATCH):
            answers = await chosen.store.run(transitions.cancel(ids[at : at + transitions.MAX_BATCH], keep))
            words += answers
        return words

    words = run(chosen_app(app, redis_url, namespace), work)
    said = {
        "cancelled": "cancelled",
        "requested": "its instance was asked to cancel it",
        "ended": "had ended already",
        "gone": "no such job",
    }
    for job_id, word in zip(ids, words, strict=True):
        acted("cancel", job_id=job_id, answer=word.value)
        print(f"{clean(job_id)}: {said[word.value]}")
    if any(word in (transitions.CancelWord.ENDED, transitions.CancelWord.GONE) for word in words):
        raise typer.Exit(EXIT_FAILED)


def _what(queue: str | None, task: str | None) -> str:
    if (queue is None) == (task is None):
        raise UsageError("name one of --queue and --task")
    check_name("queue" if queue is not None else "task name", queue if queue is not None else task)
    return f"queue:{queue}" if queue is not None else f"task:{task}"


@cli.command()
@guarded
def pause(
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    task: Annotated[str | None, typer.Option("--task")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Stop the fetching of a queue's or a task's jobs over the whole fleet; what runs goes on."""
    _pause_or_resume("pause", _what(queue, task), chosen_app(app, redis_url, namespace))


@cli.command()
@guarded
def resume(
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    task: Annotated[str | None, typer.Option("--task")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Undo a pause."""
    _pause_or_resume("resume", _what(queue, task), chosen_app(app, redis_url, namespace))


def _pause_or_resume(action: str, what: str, app: TrackedQueue) -> None:
    setup_logging()

    async def work(chosen: TrackedQueue) -> bool:
        call = transitions.pause(what) if action == "pause" else transitions.resume(what)
        changed = await chosen.store.run(call)
        while action == "resume" and what.startswith("task:"):
            moved, remaining = await chosen.store.run(transitions.unpark(what[5:], []))
            if not moved or not remaining:
                break
        return changed

    changed = run(app, work)
    acted(action, what=what, changed=changed)
    print(f"{clean(what)}: {action}d" if changed else f"{clean(what)}: was {'' if action == 'pause' else 'not '}paused")


@cli.command()
@guarded
def recover(
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recover the jobs of lost instances now; live leases, and a hold after an outage, are respected."""
    setup_logging(level="error")

    async def work(chosen: TrackedQueue) -> list[transitions.Recovered]:
        return await chosen.recover()

    moved = run(chosen_app(app, redis_url, namespace), work)
    setup_logging()
    acted("recover", jobs=len(moved))
    if as_json:
        print_json(moved)
        return
    for one in moved:
        print(f"{clean(one.id)}  {clean(one.task)}: {one.fate.value}")
    print(f"{len(moved)} jobs moved")


@cli.command()
@guarded
def quiet(
    instance: Annotated[str, typer.Argument(help="A lease or a label, as `instances` shows it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it fetch again.")] = False,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Tell an instance to fetch no more jobs; what runs there goes on."""
    setup_logging()

    async def work(chosen: TrackedQueue) -> list[str]:
        found = await reports.read_instances(chosen.store)
        leases = [item.lease for item in found if instance in (item.lease, item.label) and item.alive]
        return [lease for lease in leases if await chosen.store.run(transitions.quiet(lease, not undo))]

    leases = run(chosen_app(app, redis_url, namespace), work)
    if not leases:
        raise fail(f"no live instance has the lease or label {instance!r}; see `instances`", EXIT_FAILED)
    for lease in leases:
        acted("quiet", lease=lease, on=not undo)
        print(f"{clean(lease)}: {'fetches again' if undo else 'fetches no more jobs'}")
