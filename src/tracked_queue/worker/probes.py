"""What a worker's probes say: whether its loops turn, whether it works, whether it has started. None asks Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .liveness import Sign


@dataclass(frozen=True, slots=True)
class Standing:
    """A supervisor as its probes see it: its child processes that are for all jobs, and how many there should be."""

    wanted: int
    ready: frozenset[int]  # pids of those whose leases were registered
    stopping: bool
    ever_ready: bool


def live_problem(standing: Standing, signs: Sequence[Sign]) -> str:
    """Why this pod should be restarted; empty if it should not. A process that is starting, or ends, is no reason."""
    for sign in signs:
        if sign.pid in standing.ready and not sign.live:
            return f"process {sign.pid}: its event loop has not turned for {sign.silent_s:.0f} s"
    return ""


def ready_problem(standing: Standing, signs: Sequence[Sign]) -> str:
    """Why it does not take jobs, or not all that it could; empty if it does."""
    if standing.stopping:
        return "it is stopping"
    held = {sign.pid for sign in signs if sign.leases}
    missing = standing.wanted - len(standing.ready & held)
    if missing > 0:
        return f"{missing} of {standing.wanted} processes have no lease yet"
    return live_problem(standing, signs)


def started_problem(standing: Standing) -> str:
    """Why it has not started; empty once every process has worked at the same time, and from then on."""
    return "" if standing.ever_ready else f"{len(standing.ready)} of {standing.wanted} processes have started"
