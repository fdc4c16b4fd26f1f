"""The app of a chaos run's workers and producers: the one under test, with a ledger around its jobs."""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from typing import Any

from ..app import TrackedQueue, producer_of
from ..model.context import CurrentJob
from ..protocol.transitions import Outcome, Verdict
from .clock import go_by_it
from .ledger import APP_VARIABLE, DEFAULT_APP, FOLDER_VARIABLE, Ledger

target = os.environ.get(APP_VARIABLE, DEFAULT_APP)
app: TrackedQueue = getattr(importlib.import_module(target.partition(":")[0]), target.partition(":")[2])
go_by_it(app)
ledger = Ledger(Path(os.environ[FOLDER_VARIABLE]), "worker")


@app.middleware
async def note_run(job: CurrentJob, call_next: Any) -> Any:
    """Start, effect and end of each run."""
    about = {"id": job.id, "task": job.task, "fence": job.fence, "lease": job.lease}
    ledger.write("start", **about)
    try:
        value = await call_next()
    except asyncio.CancelledError:
        ledger.write("end", word="cancelled", **about)
        raise
    except BaseException:
        ledger.write("end", word="raised", **about)
        raise
    ledger.write_all([{"kind": "effect", **about}, {"kind": "end", "word": "returned", **about}])
    return value


def note_settled(lease: str, outcomes: list[Outcome], verdicts: list[Verdict]) -> None:
    """What the store said to each outcome."""
    ledger.write_all(
        [
            {
                "kind": "settled",
                "id": outcome.id.decode(),
                "fence": int(outcome.delivery),
                "lease": lease,
                "word": outcome.kind.value,
                "verdict": verdict.value,
            }
            for outcome, verdict in zip(outcomes, verdicts, strict=True)
        ]
    )


producer_of(app).definitions.hooks.settled.append(note_settled)
