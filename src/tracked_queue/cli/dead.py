"""`dead list`, `dead groups`, `dead requeue`, `dead purge`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ..app import TrackedQueue
from ..errors import UsageError
from ..model.checks import check_name
from ..reports.dead import DeadFilter
from ..worker import log_setup
from ..worker.exits import FAILED_EXIT
from .common import (
    JsonOption,
    Where,
    acted,
    clean,
    dead_cli,
    fields_of,
    guarded,
    print_json,
    print_table,
    run,
    seconds,
    span,
)

if TYPE_CHECKING:
    from ..operator.operator import DeadOutcome

RateOption = Annotated[float | None, typer.Option("--rate", help="At most this many a second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs would be changed.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead jobs."""

    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")] = None
    reason: Annotated[str | None, typer.Option("--reason", help="Only with this text in the reason or error.")] = None
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Only those that died at least this long ago: 90s, 15m, 2h, 7d.")
    ] = None
    group: Annotated[
        str | None, typer.Option("--group", help="Only those of a group; `dead groups` shows its key.")
    ] = None

    def filter(self) -> DeadFilter:
        """As the operator takes it. Raises UsageError."""
        for name, value in fields_of(self).items():
            if value == "":  # an unset variable in a script; as a filter it would match everything
                raise UsageError(f"--{name.replace('_', '-')}: it is empty; leave it out, or say what it should be")
        return DeadFilter(
            task=self.task,
            queue=self.queue,
            reason=self.reason,
            older_than=None if self.older_than is None else seconds(self.older_than),
            group=self.group,
        )


@dead_cli.command("list")
@guarded
def dead_list(
    *,
    wanted: Wanted,
    limit: Annotated[int, typer.Option(help="At most this many rows.")] = 100,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Dead jobs, the oldest first."""
    matching = wanted.filter()
    if limit < 1:
        raise UsageError(f"--limit {limit}: it must be 1 or more")
    found = run(where.app, lambda chosen: chosen.operator.dead(matching, limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        "Dead jobs",
        ("id", "task", "queue", "dead for", "attempts", "charges", "reason"),
        [
            (one.id, one.task, one.queue, span(one.age_s), one.attempts, one.charges, one.reason or one.error)
            for one in found
        ],
        "no dead jobs match",
    )


@dead_cli.command("groups")
@guarded
def dead_groups(
    *,
    wanted: Wanted,
    look_at: Annotated[int, typer.Option(help="How many of the newest dead jobs to look at.")] = 10_000,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Dead jobs grouped by task, error, place in the code and message; the largest group first."""
    matching = wanted.filter()
    if look_at < 1:
        raise UsageError(f"--look-at {look_at}: it must be 1 or more")
    found = run(where.app, lambda chosen: chosen.operator.dead_groups(matching, look_at=look_at))
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    print_table(
        "Dead jobs by what they died of",
        ("group", "jobs", "task", "error", "where", "first", "last"),
        [
            (
                one.key,
                one.count,
                one.task,
                f"{one.kind or 'no error'}: {one.message}",
                one.frame or None,
                f"{span((now - one.first_at).total_seconds())} ago",
                f"{span((now - one.last_at).total_seconds())} ago",
            )
            for one in found
        ],
        "no dead jobs match",
    )


@dead_cli.command("requeue")
@guarded
def dead_requeue(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    wanted: Wanted,
    everything: Annotated[bool, typer.Option("--all", help="Without a filter: all of them.")] = False,
    rate: RateOption = None,
    dry_run: DryRun = False,
    where: Where,
) -> None:
    """Queue dead jobs again."""
    _change_dead("requeue", ids, wanted.filter(), everything, rate, dry_run, where.app)


@dead_cli.command("purge")
@guarded
def dead_purge(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    wanted: Wanted,
    everything: Annotated[bool, typer.Option("--all", help="Without a filter: all of them.")] = False,
    rate: RateOption = None,
    dry_run: DryRun = False,
    where: Where,
) -> None:
    """Remove dead jobs for good."""
    _change_dead("purge", ids, wanted.filter(), everything, rate, dry_run, where.app)


def _change_dead(
    action: str,
    ids: list[str] | None,
    wanted: DeadFilter,
    everything: bool,
    rate: float | None,
    dry_run: bool,
    app: TrackedQueue,
) -> None:
    log_setup.set_up()
    filtered = wanted != DeadFilter()
    if bool(ids) + filtered + everything != 1:
        raise UsageError(f"{action}: give ids, a filter or --all (exactly one of them)")
    for job_id in ids or []:
        check_name("job id", job_id)
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"--rate {rate:g}: it must be a number above 0")

    async def work(chosen: TrackedQueue) -> DeadOutcome:
        act = chosen.operator.requeue if action == "requeue" else chosen.operator.purge
        return await act(ids or (), matching=wanted, everything=everything, rate=rate, dry_run=dry_run)

    outcome = run(app, work)
    done = outcome.done
    refused = [f"{job_id}: {word.value}" for job_id, word in outcome.refused.items()]
    if dry_run:
        print(f"{done} dead jobs would be {action}{'d' if action.endswith('e') else 'ed'}")
        _say_refused(refused)
        return
    acted(action)
    print(f"{done} dead jobs {action}{'d' if action.endswith('e') else 'ed'}")
    _say_refused(refused)


def _say_refused(refused: Sequence[str]) -> None:
    for line in refused[:20]:
        print(clean(line), file=sys.stderr)
    if refused:
        raise typer.Exit(FAILED_EXIT)
