"""`trace`: a flight recorder's file, made readable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..worker.recorder import FORMAT
from .common import JsonOption, clean, cli, guarded, print_json, seconds

# A file that a worker wrote is far smaller.
MOST_BYTES = 64 * 1024 * 1024


@cli.command()
@guarded
def trace(
    *,
    file: Annotated[Path, typer.Argument(help="What the log line flight.written names.")],
    last: Annotated[str | None, typer.Option("--last", help="Only events of the last 10s, 5m, ...")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Only events that name this job.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a worker process did before something went wrong: its last events, and where its threads and tasks stood."""
    within_s = None if last is None else seconds(last)
    lines = _read(file)
    head = lines[0]
    events = [
        line
        for line in lines[1:]
        if "kind" in line
        and (within_s is None or _number(line.get("ago")) <= within_s)
        and (job is None or _names(line, job))
    ]
    stacks = [line for line in lines[1:] if "stack" in line]
    if as_json:
        print_json({"head": head, "events": events, "stacks": stacks})
        return
    for row in (*_head(head), *_events(events), *_stacks(stacks)):
        print(clean(row))


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file}: it has more than {MOST_BYTES} bytes, so no worker wrote it")
        text = file.read_text("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    lines: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the process ended while it was being written
        if isinstance(found, dict):
            lines.append(found)
    if not lines or not isinstance(lines[0].get("format"), int):
        raise UsageError(f"{file}: it is not a file of a flight recorder")
    if lines[0]["format"] > FORMAT:
        raise UsageError(f"{file}: a newer version of tracked_queue wrote it (format {lines[0]['format']})")
    return lines


def _head(head: dict[str, Any]) -> Iterator[str]:
    yield f"{head.get('why', '?')} at {head.get('at', '?')}"
    for name in ("label", "pid", "version", "python", "problem"):
        if name in head:
            yield f"  {name:<9}{head[name]}"
    for lease in _list(head.get("leases")):
        yield f"  lease    {lease}"
    running = [one for one in _list(head.get("running")) if isinstance(one, list) and len(one) == 3]
    yield f"  running  {len(running)} jobs"
    for job_id, task, age_s in sorted(running, key=lambda one: -_number(one[2]))[:20]:
        yield f"    {job_id}  {task}  for {_number(age_s):.3f} s"
    if len(running) > 20:
        yield f"    {len(running) - 20} more"


def _events(events: list[dict[str, Any]]) -> Iterator[str]:
    yield ""
    yield f"events, seconds before: {len(events)}"
    for event in events:
        facts = "  ".join(_fact(fact) for fact in _list(event.get("facts")))
        yield f"  {-_number(event.get('ago')):>12.6f}  {event.get('kind')!s:<22}  {facts}".rstrip()


def _stacks(stacks: list[dict[str, Any]]) -> Iterator[str]:
    for kind in ("thread", "task"):
        for one in stacks:
            if kind in one:
                yield ""
                yield f"{kind} {one[kind]}"
                for place in _list(one["stack"]):
                    yield f"  {place}"


def _fact(fact: Any) -> str:
    if isinstance(fact, dict):
        return " ".join(f"{name}={value}" for name, value in fact.items())
    return str(fact)


def _names(event: dict[str, Any], job: str) -> bool:
    facts = _list(event.get("facts"))
    return any(job in (map(str, fact.values()) if isinstance(fact, dict) else (str(fact),)) for fact in facts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
