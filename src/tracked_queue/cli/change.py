"""`enqueue`, `cancel`, `pause`, `resume`, `recover`, `quiet`: the commands that change things, and log who did it."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from .. import log
from ..app import TrackedQueue
from ..errors import JobFailedError, UsageError, did_you_mean
from ..model.job import Job
from ..protocol.transitions import CancelWord
from ..worker import log_setup
from ..worker.exits import FAILED_EXIT
from .common import (
    JsonOption,
    NamespaceOption,
    UrlOption,
    Where,
    acted,
    check_known,
    clean,
    cli,
    fail,
    guarded,
    print_json,
    run,
    say,
    seconds,
)


@cli.command()
@guarded
def enqueue(
    *,
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Option(help="Positional arguments, a JSON array.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Named arguments, a JSON object.")] = "{}",
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    id: Annotated[str | None, typer.Option(help="The job's id.")] = None,
    delay: Annotated[str | None, typer.Option(help="How long until it is due: 90, 90s, 15m, 2h, 7d.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait this long for the result, and print it.")] = None,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Store one job; prints its id."""
    log_setup.set_up()
    positional, named = _json("args", args, list), _json("kwargs", kwargs, dict)
    delay_s = None if delay is None else seconds(delay)
    wait_s = None if wait is None else seconds(wait)

    target = where.app
    check_known(target, where.named, "task", task)

    known: dict[str, Any] = {}

    async def noted(chosen: TrackedQueue, stored: Job[Any]) -> None:
        acted("enqueue")
        await chosen.operator.note_act("enqueue", job_id=stored.id, task=task, created=stored.created)

    async def work(chosen: TrackedQueue) -> tuple[Any, Any]:
        sender = chosen.options(id=id, queue=queue, delay=delay_s)
        stored = await sender.enqueue(task, *positional, **named)
        known.update(id=stored.id, created=stored.created)
        if wait_s is None:
            await noted(chosen, stored)
            return stored, None
        if not as_json:  # before the wait, which may end without a result
            print(stored.id if stored.created else f"{stored.id} (exists already; nothing was added)", flush=True)
        await noted(chosen, stored)
        return stored, await stored.result(timeout=wait_s)

    try:
        stored, result = run(target, work, patient=True)
    except (TimeoutError, JobFailedError) as error:
        if as_json:
            print_json({**known, "error": str(error)})
        if isinstance(error, JobFailedError):
            raise fail(f"it is {error.state}: {error.reason}; see `job {error.job_id}`", FAILED_EXIT) from None
        raise fail(str(error), FAILED_EXIT) from None
    if as_json:
        print_json({"id": stored.id, "created": stored.created, **({} if wait is None else {"result": result})})
    elif wait is None:
        print(stored.id if stored.created else f"{stored.id} (exists already; nothing was added)")
    else:
        print_json(result)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is beyond the range of numbers")
    return number


def _json(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise UsageError(f"--{name}: it is nested too deep") from None
    except ValueError as error:
        raise UsageError(f"--{name}: it is not valid JSON: {error}") from None
    if not isinstance(value, kind):
        raise UsageError(f"--{name}: it must be a JSON {'array' if kind is list else 'object'}")
    return value


@cli.command()
@guarded
def cancel(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="All jobs of a queue.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="All jobs of a task.")] = None,
    where: Where,
) -> None:
    """Cancel jobs, or all of a queue or task: at once if they have not started, else within a second."""
    log_setup.set_up()
    if sum((bool(ids), queue is not None, task is not None)) != 1:
        raise UsageError("give one of ID..., --queue or --task")
    target = where.app
    check_known(target, where.named, "queue", queue)
    check_known(target, where.named, "task", task)
    if not ids:
        count = run(target, lambda chosen: chosen.operator.cancel_many(queue=queue, task=task))
        acted("cancel_many")
        print(f"{count} jobs cancelled, or asked to end")
        return
    words = run(target, lambda chosen: chosen.operator.cancel(ids))
    said = {
        "cancelled": "cancelled",
        "requested": "its instance was asked to cancel it",
        "ended": "had ended already",
        "gone": "no such job",
    }
    for job_id, word in words.items():
        acted("cancel")
        print(f"{clean(job_id)}: {said[word.value]}")
    if any(word in (CancelWord.ENDED, CancelWord.GONE) for word in words.values()):
        raise typer.Exit(FAILED_EXIT)


@cli.command()
@guarded
def retire(
    *,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="A queue that nobody serves any more.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="A task that was removed from the code.")] = None,
    where: Where,
) -> None:
    """Remove every trace of a queue or task: cancel its jobs, and forget the queue's name."""
    log_setup.set_up()
    if (queue is None) == (task is None):
        raise UsageError("give --queue or --task")
    count = run(where.app, lambda chosen: chosen.operator.retire(queue=queue, task=task))
    acted("retire")
    print(f"{count} jobs cancelled, or asked to end")


PauseQueue = Annotated[str | None, typer.Option("--queue", "-q")]
PauseTask = Annotated[str | None, typer.Option("--task")]
PauseSchedule = Annotated[str | None, typer.Option("--schedule", help="Its ticks are skipped, not made up for later.")]


@cli.command()
@guarded
def pause(
    *,
    queue: PauseQueue = None,
    task: PauseTask = None,
    schedule: PauseSchedule = None,
    where: Where,
) -> None:
    """Stop the fetching of a queue's or a task's jobs, or a schedule, over the whole fleet; what runs goes on."""
    target = where.app
    check_known(target, where.named, "queue", queue)
    check_known(target, where.named, "task", task)
    if where.named and schedule is not None and schedule not in target.schedules:
        raise UsageError(
            f"schedule {schedule!r}: the app has none of that name; {did_you_mean(schedule, target.schedules)}"
        )
    _pause_or_resume("pause", {"queue": queue, "task": task, "schedule": schedule}, target)


@cli.command()
@guarded
def resume(
    *,
    queue: PauseQueue = None,
    task: PauseTask = None,
    schedule: PauseSchedule = None,
    where: Where,
) -> None:
    """Undo a pause."""
    _pause_or_resume("resume", {"queue": queue, "task": task, "schedule": schedule}, where.app)


def _pause_or_resume(action: str, what: dict[str, str | None], app: TrackedQueue) -> None:
    log_setup.set_up()
    given = {kind: name for kind, name in what.items() if name is not None}
    if len(given) != 1:
        raise UsageError("give one of --queue, --task or --schedule")

    ((kind, name),) = given.items()

    async def work(chosen: TrackedQueue) -> bool:
        operator = chosen.operator
        if (
            action == "pause"
            and kind != "schedule"
            and await operator.instances()
            and not await operator.knows(**given)
        ):
            say(f"{kind} {name!r}: no instance and no job knows that name; it is paused all the same")
        return await (operator.pause(**given) if action == "pause" else operator.resume(**given))

    changed = run(app, work)
    acted(action)
    said = f"{action}d" if changed else f"was {'' if action == 'pause' else 'not '}paused"
    print(f"{kind}:{clean(name)}: {said}")


@cli.command()
@guarded
def trigger(
    schedule: Annotated[str, typer.Argument(help="A schedule's name, as `schedules` shows it.")],
    app: Annotated[str, typer.Option("--app", help="module:app that defines the schedule.")],
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Run a schedule's task now, besides its ticks; prints the job's id."""
    log_setup.set_up()
    where = Where(app, redis_url, namespace)
    stored = run(where.app, lambda chosen: chosen.operator.trigger(schedule))
    acted("trigger")
    print(stored.id)


@cli.command()
@guarded
def recover(
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Recover the jobs of lost instances now; live leases, and a hold after an outage, are respected."""
    log_setup.set_up(level="error")

    moved = run(where.app, lambda chosen: chosen.operator.recover())
    log_setup.set_up()
    acted("recover")
    log.operator_acted(action="recover", by=where.app.operator.by, jobs=len(moved))
    if as_json:
        print_json(moved)
        return
    for one in moved:
        print(f"{clean(one.id)}  {clean(one.task)}: {one.fate.value}")
    print(f"{len(moved)} jobs moved")


@cli.command()
@guarded
def quiet(
    *,
    instance: Annotated[str, typer.Argument(help="A lease or a label, as `instances` shows it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it fetch again.")] = False,
    where: Where,
) -> None:
    """Tell an instance to fetch no more jobs; what runs there goes on."""
    log_setup.set_up()

    leases = run(where.app, lambda chosen: chosen.operator.quiet(instance, undo=undo))
    if not leases:
        raise fail(f"no live instance has the lease or label {instance!r}; see `instances`", FAILED_EXIT)
    for lease in leases:
        acted("quiet")
        print(f"{clean(lease)}: {'fetches again' if undo else 'fetches no more jobs'}")
