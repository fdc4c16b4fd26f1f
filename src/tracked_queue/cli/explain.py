"""`explain`: why, in a terminal or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from ..operator.explanation import Explanation, Segment, seconds
from ..reports.runs import Run
from ..worker.exits import FAILED_EXIT
from .common import JsonOption, Where, clean, cli, console, guarded, print_json, run


@cli.command()
@guarded
def explain(
    *,
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", show_default=False)] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="How a queue stands.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="How a task stands.")] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="A lease or a label, as `instances` shows it.")
    ] = None,
    limit: Annotated[str | None, typer.Option("--limit", help="A limit, with its key's value.")] = None,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """
    Why a job does not run, or ran twice; how a queue, task, instance or limit stands; without any, what is wrong.

    Exit 0: explained, and nothing needs you; 1: something does, or there is no such job; 3: no Redis.
    """
    found = run(
        where.app,
        lambda app: app.operator.explain(job_id, queue=queue, task=task, instance=instance, limit=limit),
    )
    if as_json:
        print_json(found)
    else:
        for at, one in enumerate(found):
            if at:
                console().print()
            for line in lines_of(one):
                console().print(line)
        if not found:
            console().print("Nothing is wrong that this can see; `doctor` looks at the server and the settings.")
    if any(one.problem or one.code.startswith("absent.") for one in found):
        raise typer.Exit(FAILED_EXIT)


def lines_of(one: Explanation) -> Iterator[Text]:
    """An explanation for people: the sentence, the facts, what would change it, and the job's runs and time."""
    head = Text(clean(one.about), style="bold")
    yield head.append(f"  {one.code}", style="red" if one.problem else "green")
    yield Text(clean(one.sentence))
    for fact in one.facts:
        age = "" if fact.age_s is None else f", {seconds(fact.age_s)} ago"
        likely = "likely: " if fact.likely else ""
        yield Text(f"  {likely}{clean(fact.text)}").append(f"  ({fact.source}{age})", style="dim")
    for at, command in enumerate(one.do):
        yield Text("  do: " if not at else "  or: ").append(clean(command), style="bold")
    if one.twice:
        yield Text("")
        yield Text(clean(one.twice_sentence))
        for number, item in enumerate(one.runs, 1):
            yield Text(f"  run {number}: {clean(_run(item))}")
    if one.segments and one.total_s:
        yield Text("")
        parts = ", ".join(f"{part.what} {seconds(part.seconds)}" for part in _merged(one.segments))
        yield Text(f"Its {seconds(one.total_s)}: {parts}")


def _run(item: Run) -> str:
    end = f"{item.ended_at:%H:%M:%S} {item.end}" if item.ended_at else "now"
    late = f"; ended late at {item.late_at:%H:%M:%S} ({item.late_outcome})" if item.late_at else ""
    overlap = f", {seconds(item.overlap_s)} beside the next" if item.overlap_s else ""
    return f"{item.started_at:%Y-%m-%d %H:%M:%S} to {end} on {item.lease or '-'}{late}{overlap}"


def _merged(segments: tuple[Segment, ...]) -> list[Segment]:
    """Parts that are too short to matter left out, unless all are."""
    total = sum(part.seconds for part in segments)
    return [part for part in segments if part.seconds >= total / 100] or list(segments)
