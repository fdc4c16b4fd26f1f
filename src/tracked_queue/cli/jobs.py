"""`jobs`, `move`, `reschedule`, `delete`: the commands that list jobs, and change ones that do not run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, cast

import typer

from ..errors import UsageError
from ..worker import log_setup
from ..worker.exits import FAILED_EXIT
from .common import (
    JsonOption,
    Where,
    acted,
    check_known,
    clean,
    cli,
    guarded,
    print_json,
    print_table,
    run,
    say,
    seconds,
    span,
)

IDs = Annotated[list[str], typer.Argument(metavar="ID...")]


@cli.command()
@guarded
def jobs(
    *,
    state: Annotated[str, typer.Option("--state", help="queued, active, retrying, dead, succeeded, ...")] = "queued",
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    error: Annotated[str | None, typer.Option("--error", help="Only with this text in the reason.")] = None,
    older: Annotated[str | None, typer.Option("--older", help="Only those that are so for this long: 90s, 2h.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many rows.")] = 100,
    start: Annotated[str | None, typer.Option("--from", help="What the page before said.")] = None,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Jobs of a state: queued in the order in which they are taken, ended and dead with the newest first."""
    if limit < 1:
        raise UsageError(f"--limit {limit}: it must be 1 or more")
    older_s = None if older is None else seconds(older)
    page = run(
        where.app,
        lambda app: app.operator.jobs(
            cast(Any, state), queue=queue, task=task, error=error, older=older_s, limit=limit, start=start
        ),
    )
    if as_json:
        print_json(page)
        return
    is_scheduled = state in ("scheduled", "retrying")
    print_table(
        "Jobs",
        (
            "id",
            "task",
            "queue",
            "due in" if is_scheduled else "since",
            "attempts",
            *(("waits for",) if is_scheduled else ("instance",) if state == "active" else ()),
            "reason",
        ),
        [
            (
                one.id,
                one.task,
                one.queue,
                _due(one.age_s) if is_scheduled else span(one.age_s),
                one.attempts,
                *((one.why,) if is_scheduled else (one.lease,) if state == "active" else ()),
                one.reason or None,
            )
            for one in page.rows
        ],
        f"no jobs are {state}",
    )
    if page.next is not None:
        say(f"there may be more: --from {page.next}")


def _due(age_s: float | None) -> str:
    """In how long a scheduled job is due, or how long ago it was."""
    return span(-age_s) if age_s is not None and age_s <= 0 else f"{span(age_s)} overdue"


@cli.command()
@guarded
def move(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    to: Annotated[str, typer.Option("--to", help="The queue in which they are to wait.")],
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="All queued jobs of this queue.")] = None,
    limit: Annotated[int | None, typer.Option(help="With --queue: at most this many, the oldest first.")] = None,
    where: Where,
) -> None:
    """Let jobs that have not started wait in another queue. Jobs with limits, in lanes, and suspects stay."""
    log_setup.set_up()
    if bool(ids) == (queue is not None):
        raise UsageError("give ID... or --queue")
    if limit is not None and (queue is None or limit < 1):
        raise UsageError(f"--limit {limit}: it must be 1 or more, and goes with --queue")
    target = where.app
    check_known(target, where.named, "queue", to)
    if queue is not None:
        count = run(target, lambda app: app.operator.move_queue(queue, to, limit=limit))
        acted("move_queue")
        print(f"{count} jobs moved")
        return
    words = run(target, lambda app: app.operator.move(ids or [], to))
    _tell(
        words,
        {
            "ok": "moved",
            "same": "it was there already",
            "started": "it has started",
            "ended": "it has ended",
            "limited": "it has limits, or a lane, which are counted in its queue; cancel it and enqueue it anew",
            "suspect": "it is a suspect; it runs alone first",
            "deep": "it is too far from both ends of its queue; move the queue with --queue",
            "foreign": "a key of another type stands in the place of that queue",
            "gone": "no such job",
        },
    )


@cli.command()
@guarded
def reschedule(
    *,
    ids: IDs,
    after: Annotated[str | None, typer.Option("--in", help="How long until they are due; 0: now.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="When, with a timezone: 2030-01-31T08:00:00+01:00.")] = None,
    where: Where,
) -> None:
    """Let scheduled jobs be due at another time: delayed ones, retries, and those that snooze."""
    log_setup.set_up()
    if (after is None) == (at is None):
        raise UsageError("give --in or --at")
    when: float | datetime
    if at is None:
        when = seconds(after or "")
    else:
        try:
            when = datetime.fromisoformat(at)
        except ValueError:
            raise UsageError(f"--at {at!r}: write a time such as 2030-01-31T08:00:00+01:00") from None
        if when.tzinfo is None:
            raise UsageError(f"--at {at!r}: it has no timezone; end it with Z, or +01:00")
    words = run(where.app, lambda app: app.operator.reschedule(ids, when))
    _tell(words, {"ok": "rescheduled", "not_scheduled": "it is not scheduled", "gone": "no such job"})


@cli.command()
@guarded
def delete(
    *,
    ids: IDs,
    where: Where,
) -> None:
    """Delete ended and dead jobs, with their arguments, results and errors."""
    log_setup.set_up()
    words = run(where.app, lambda app: app.operator.delete(ids))
    _tell(
        words,
        {
            "ok": "deleted",
            "wanted": "a job that comes after it has yet to read its result",
            "not_ended": "it may still run; cancel it first",
            "gone": "no such job",
        },
    )


def _tell(words: Mapping[str, Any], said: Mapping[str, str]) -> None:
    """A line for each job; exit 1 if something was not done."""
    for job_id, word in words.items():
        acted("jobs")
        print(f"{clean(job_id)}: {said[word.value]}")
    if any(word.value != "ok" for word in words.values()):
        raise typer.Exit(FAILED_EXIT)
