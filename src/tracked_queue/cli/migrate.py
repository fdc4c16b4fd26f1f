"""`migrate`: jobs that wait in another queue's Redis, and code that was written for Celery."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import redis.exceptions as rex
import typer

from ..app import TrackedQueue
from ..errors import UsageError
from .common import JsonOption, acted, cli, console, fail, fields_of, guarded, load_app, print_json, print_table, say
from .common import run as with_app

if TYPE_CHECKING:
    from ..migrate import Report

LOOK_S = 1.0
NAMES = {
    "celery": "Celery",
    "rq": "RQ",
    "arq": "arq",
    "dramatiq": "dramatiq",
    "saq": "SAQ",
    "huey": "huey",
    "taskiq": "taskiq",
}

migrate_cli = typer.Typer(no_args_is_help=True, help="Move from Celery, RQ, arq, dramatiq, SAQ, huey or taskiq.")
cli.add_typer(migrate_cli, name="migrate")

AppArgument = Annotated[str, typer.Argument(help="module:app with the tasks that run the jobs from now on.")]
FromOption = Annotated[str, typer.Option("--from", help="The Redis of the other queue: redis://host:6379/0.")]
QueueOption = Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only these queues. Default: all.")]
MapOption = Annotated[
    list[str] | None, typer.Option("--map", help="The name of a task there, and here: old.name=new.name.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be moved, and what stays and why.")]
FollowOption = Annotated[
    bool, typer.Option("--follow", help="Go on until Ctrl-C: for producers that still write there.")
]
StoppedOption = Annotated[
    bool, typer.Option("--workers-stopped", help="No worker runs there: take what killed ones held, too.")
]
KeepOption = Annotated[bool, typer.Option("--keep-queues", help="Into the queues of the same names.")]
PrefixOption = Annotated[
    str, typer.Option(help="Celery's global_keyprefix, dramatiq's namespace, or taskiq's prefix of schedules.")
]


def _command(source: str) -> None:
    def move(
        app: AppArgument,
        url: FromOption,
        queue: QueueOption = None,
        names: MapOption = None,
        dry_run: DryRunOption = False,
        follow: FollowOption = False,
        workers_stopped: StoppedOption = False,
        keep_queues: KeepOption = False,
        prefix: PrefixOption = "",
        as_json: JsonOption = False,
    ) -> None:
        if dry_run and follow:
            raise UsageError("--dry-run and --follow were both given")
        mapped = dict(_pair(item) for item in names or ())
        report = _moved(source, app, url, queue or [], mapped, dry_run, follow, workers_stopped, keep_queues, prefix)
        _show(report, dry_run, as_json)

    move.__doc__ = (
        f"Move the jobs that wait in {NAMES[source]}'s Redis. Each is stored once, however often this is run; what can't be "
        "moved stays where it is, with the reason. Begin with --dry-run."
    )
    migrate_cli.command(source)(guarded(move))


for _source in NAMES:
    _command(_source)


@migrate_cli.command()
@guarded
def scan(
    path: Annotated[Path, typer.Argument(help="A Python file, or a folder of them.")],
    as_json: JsonOption = False,
) -> None:
    """Read code that uses Celery: what to write instead, and what has no counterpart. Nothing is imported or changed."""
    from ..migrate.scan import scan as scanned

    found = scanned(path)
    if as_json:
        print_json([fields_of(one) for one in found])
        return
    rows = [[f"{one.path}:{one.line}", one.what, one.say if one.carries_over else f"! {one.say}"] for one in found]
    columns = ["where", "what", "write instead (!: no counterpart)"]
    print_table("Celery in this code", columns, rows, "no use of Celery was found")
    lost = sum(not one.carries_over for one in found)
    if found:
        console().print(f"{len(found)} places, {lost} of them without a counterpart")


def _moved(
    source: str, path: str, url: str, queues: list[str], names: dict[str, str], dry_run: bool, follow: bool, stopped: bool,
    keep_queues: bool, prefix: str,
) -> Report:  # fmt: skip
    from ..migrate import Bridge, source_of

    async def work(target: TrackedQueue) -> Report:
        there = source_of(source, url, prefix, stopped)
        try:
            bridge = Bridge(target, there, names, keep_queues=keep_queues)
            if dry_run:
                return await bridge.plan(queues)
            acted("migrate")
            report = await bridge.drain(queues)
            while follow:
                await asyncio.sleep(LOOK_S)
                more = await bridge.drain(queues)
                if more.moved:
                    say(f"{more.moved} more were moved")
            return report
        finally:
            await there.close()

    try:
        return with_app(load_app(path), work)
    except rex.RedisError as error:
        raise fail(f"{url.rpartition('@')[2]}: {error}", 3) from None


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


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
        [of.name or "(unreadable)", of.moved, of.left.total(), _when(of.first_due), _when(of.last_due)] for of in tasks
    ]
    columns = ["task there", "can move" if dry_run else "moved", "stay", "first due (UTC)", "last due (UTC)"]
    print_table("Jobs there", columns, rows, "no jobs wait there")
    for of in tasks:
        for why, count in of.left.most_common():
            console().print(f"{count} stay of {of.name or 'no known task'}: {why}")
    queues = ", ".join(report.queues) or "none"
    verb = "can be moved" if dry_run else "were moved"
    console().print(f"{report.moved} jobs {verb}, {report.left} stay; queues there: {queues}")
