"""`migrate`: jobs that wait in another queue's Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import redis.exceptions as rex
import typer

from ..app import TrackedQueue
from ..errors import UsageError
from .common import JsonOption, acted, cli, console, fail, guarded, load_app, print_json, print_table, say
from .common import run as with_app

if TYPE_CHECKING:
    from ..migrate import Report

LOOK_S = 1.0


@cli.command()
@guarded
def migrate(
    source: Annotated[str, typer.Argument(help="celery, rq, arq, dramatiq or huey.")],
    app: Annotated[str, typer.Argument(help="module:app with the tasks that run the jobs from now on.")],
    url: Annotated[str, typer.Option("--from", help="The Redis of the other queue: redis://host:6379/0.")],
    queue: Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only these queues. Default: all.")] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", help="The name of a task there, and here: old.name=new.name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be moved, and what stays and why.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until Ctrl-C: for producers that still write there.")
    ] = False,
    workers_stopped: Annotated[
        bool, typer.Option("--workers-stopped", help="No worker runs there: take what killed ones held, too.")
    ] = False,
    keep_queues: Annotated[bool, typer.Option("--keep-queues", help="Into the queues of the same names.")] = False,
    prefix: Annotated[str, typer.Option(help="Celery's global_keyprefix.")] = "",
    as_json: JsonOption = False,
) -> None:
    """
    Move the jobs that wait in another queue's Redis: Celery, RQ, arq, dramatiq, huey. Each is stored once, however often this
    is run; what can't be moved stays where it is, with the reason. Begin with --dry-run.
    """
    from ..migrate import Bridge, source_of

    names = dict(_pair(item) for item in map or ())
    if dry_run and follow:
        raise UsageError("--dry-run and --follow were both given")

    async def work(target: TrackedQueue) -> Report:
        there = source_of(source, url, prefix, workers_stopped)
        try:
            bridge = Bridge(target, there, names, keep_queues=keep_queues)
            if dry_run:
                return await bridge.plan(queue or ())
            acted("migrate")
            report = await bridge.drain(queue or ())
            while follow:
                await asyncio.sleep(LOOK_S)
                more = await bridge.drain(queue or ())
                if more.moved:
                    say(f"{more.moved} more were moved")
            return report
        finally:
            await there.close()

    try:
        report = with_app(load_app(app), work)
    except rex.RedisError as error:
        raise fail(f"{url.rpartition('@')[2]}: {error}", 3) from None
    _show(report, dry_run, as_json)


def _pair(item: str) -> tuple[str, str]:
    old, equals, new = item.partition("=")
    if not (old and equals and new):
        raise UsageError(f"--map {item!r}: write old.name=new.name")
    return old, new


def _show(report: Report, dry_run: bool, as_json: bool) -> None:
    tasks = sorted(report.tasks.values(), key=lambda of: of.name)
    if as_json:
        found: list[dict[str, Any]] = [
            {
                "task": of.name,
                "moved": of.moved,
                "left": dict(of.left),
                "first_due": of.first_due,
                "last_due": of.last_due,
            }
            for of in tasks
        ]
        told = {"dry_run": dry_run, "queues": list(report.queues), "moved": report.moved, "left": report.left}
        print_json({**told, "tasks": found})
        return
    rows = [
        [of.name or "(unreadable)", of.moved, of.left.total(), of.first_due or "-", of.last_due or "-"] for of in tasks
    ]
    columns = ["task there", "can move" if dry_run else "moved", "stay", "first due", "last due"]
    print_table("Jobs there", columns, rows, "no jobs wait there")
    for of in tasks:
        for why, count in of.left.most_common():
            console().print(f"{count} stay of {of.name or 'no known task'}: {why}")
    queues = ", ".join(report.queues) or "none"
    verb = "can be moved" if dry_run else "were moved"
    console().print(f"{report.moved} jobs {verb}, {report.left} stay; queues there: {queues}")
