"""`doctor`: whether the server and the settings keep the promise."""

from __future__ import annotations

import typer

from ..operator.doctor import Finding, Level
from ..worker.exits import FAILED_EXIT
from .common import (
    JsonOption,
    Where,
    clean,
    cli,
    guarded,
    print_json,
    run,
)


@cli.command()
@guarded
def doctor(
    *,
    where: Where,
    json: JsonOption = False,
) -> None:
    """Check whether server and settings can keep the promise. Exit 0: no problem, 1: a problem, 3: no Redis."""
    findings = run(where.app, lambda chosen: chosen.operator.examine())
    if json:
        print_json(findings)
    else:
        for finding in findings:
            print(line_of(finding))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(FAILED_EXIT)


def line_of(finding: Finding) -> str:
    """One line: the level, what it is about, how it stands, and what to do."""
    text = f"{finding.level.value.upper():<8} {finding.name}: {clean(finding.found)}"
    return f"{text} -> {finding.do}" if finding.do else text
