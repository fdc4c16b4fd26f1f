"""`chaos`: faults at random, and whether the promise held."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..chaos.ledger import DEFAULT_APP
from ..worker.exits import FAILED_EXIT
from .common import cli, guarded, print_table

if TYPE_CHECKING:
    from ..chaos.checker import Judgement


@cli.command()
@guarded
def chaos(
    app: Annotated[str, typer.Argument(help="module:app with a function chaos_calls beside it.")] = DEFAULT_APP,
    seconds: Annotated[float, typer.Option(help="For how many seconds there are faults.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Decides every choice; default: a new one, printed.")] = None,
    shards: Annotated[int, typer.Option(help="Shards of the namespace.")] = 1,
    instances: Annotated[
        int, typer.Option(help="Small instances besides the six of the workers, fifty to a process.")
    ] = 0,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for ledgers, logs and history; default: kept if it fails.")
    ] = None,
) -> None:
    """Kill, freeze, cut and fail over real workers and servers, and check that nothing is lost."""
    from ..chaos.calls import calls_of  # a worker's start does not pay for it
    from ..chaos.harness import run_chaos

    chosen = random.randrange(10**6) if seed is None else seed
    folder = keep or Path(tempfile.mkdtemp(prefix="tracked_queue-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    calls_of(app)  # before anything is started
    print(f"seed {chosen}, {seconds:g} s of faults; history in {folder}", flush=True)
    try:
        told = partial(print, flush=True)
        found = asyncio.run(run_chaos(folder, app, seconds, chosen, told, shards, instances))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"stopped early, and not judged; what there is of its history is in {folder}")
        raise typer.Exit(FAILED_EXIT) from None
    show(found)
    if found.problems:
        print(f"NOT WELL: {len(found.problems)} problems; history kept in {folder}")
        raise typer.Exit(FAILED_EXIT)
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    print("nothing was lost; every further run has a recorded cause")


def show(found: Judgement) -> None:
    """The tables of a run."""
    print_table("Faults", ("kind", "times"), sorted(found.faults.items()), "none")
    rows: list[tuple[str, object]] = [("jobs", found.jobs), ("runs", found.runs)]
    rows += [(f"ended {state}", count) for state, count in sorted(found.states.items())]
    rows += [("recovered", found.recovered), ("late outcomes fenced", found.fenced)]
    rows.append(("taken back by a failover and sent again", found.taken_back))
    rows += [(f"run again: {cause}", count) for cause, count in sorted(found.again.items())]
    if found.recovery_s:
        times = found.recovery_s
        rows.append(("seconds from a kill to the next run, p50", f"{statistics.median(times):.2f}"))
        rows.append(("seconds from a kill to the next run, max", f"{times[-1]:.2f}"))
    if found.waited_s:
        rows.append(
            ("seconds from the last fault to the last run of a job that waited, max", f"{found.waited_s[-1]:.2f}")
        )
    rows.append(("calls of scripts above 5 ms after the last fault", found.slow))
    rows.append(("lost", len(found.lost)))
    print_table("History", ("what", ""), rows, "nothing happened")
    for problem in found.problems[:20]:
        print(f"problem: {problem}")
