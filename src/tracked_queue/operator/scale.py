"""How much work there is for some queues, and how many workers it wants: what an autoscaler asks. It does no I/O."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ..reports.instances import one_each
from ..reports.numbers import FleetNumbers

# A worker is wanted for this part of its places, so that a burst finds some free.
USED_PART = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """
    What there is to do. `work` is what an autoscaler goes by: `ready`, `due` soon, `active` and `recoverable` jobs, without
    those that are paused, parked, waiting for others or for a full limit. `slots` are the places of the instances that
    serve these queues, `busy` those taken; `rate` is how many jobs a second left lately, `drain_s` how long the backlog
    takes at that rate (None if none left), `replicas` how many workers of the present size are wanted.
    """

    work: int
    ready: int
    due: int
    active: int
    recoverable: int
    slots: int
    busy: int
    workers: int
    oldest_s: float
    rate: float
    drain_s: float | None
    replicas: int


def scale_of(numbers: FleetNumbers, queues: Collection[str], due: int, target_wait_s: float, slots: int = 0) -> Scale:
    """
    The scale of these queues.

    Args:
        due: Jobs that are due soon.
        target_wait_s: Within this time the backlog should be gone.
        slots: Places of a worker; 0: as those that are there have on average, else 100.
    """
    chosen = [one for one in numbers.overview.queues if one.queue in queues and not one.paused]
    names = {one.queue for one in chosen}
    ready = sum(one.length - one.limited + min(one.limited, numbers.lanes.get(one.queue, 0)) for one in chosen)
    live = [item for item in numbers.instances if item.alive and names & set(item.queues)]
    lost = [item for item in numbers.instances if not item.alive and names & set(item.queues)]
    active, places = sum(item.owned for item in live), sum(item.concurrency for item in one_each(live))
    recoverable = sum(item.owned for item in lost)
    due = due if names else 0
    work = ready + due + active + recoverable
    rate = sum(one.succeeded_per_min + one.failed_per_min for one in chosen) / 60
    backlog = ready + recoverable
    workers = len({(item.host, item.pid, item.machine) for item in live})
    size = slots or (round(places / workers) if workers else 100)
    wanted = math.ceil(work / (size * USED_PART)) if work else 0
    if workers and rate and backlog > rate * target_wait_s:
        wanted = max(wanted, math.ceil(backlog / (rate / workers * target_wait_s)))
    return Scale(
        work=work,
        ready=ready,
        due=due,
        active=active,
        recoverable=recoverable,
        slots=places,
        busy=min(active, places),
        workers=workers,
        oldest_s=max((one.oldest_s or 0.0 for one in chosen), default=0.0),
        rate=rate,
        drain_s=backlog / rate if rate else None,
        replicas=min(wanted, work),
    )
