"""How a queue, an instance, a limit or a whole shard stands, and why: what explanations have in common. It does no I/O."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from ..model.constraints import limit_shown
from ..reports.instances import InstanceReport
from ..reports.memory import Act
from ..reports.scene import (
    Backlog,
    Fleet,
    LimitScene,
    QueueScene,
)
from .explanation import Cause, Fact, plural, seconds

# What is due for longer than this has been overlooked.
OVERDUE_S = 30.0
# A lease that ran out longer ago than this has been left alone by everybody.
LEFT_ALONE_S = 60.0
# A limit that lets nothing pass for so long needs somebody.
BLOCKED_LONG_S = 900.0
LATELY_MIN = 15
# The gravest first.
GRAVITY = {
    "fleet.lost": 0,
    "fleet.nobody": 1,
    "fleet.hold": 2,
    "fleet.unserved": 3,
    "fleet.overdue": 4,
    "fleet.dead": 5,
}


def queue_stands(fleet: Fleet, queue: QueueScene, acts: Sequence[Act]) -> Cause | None:
    """Why nothing is taken from a queue at all."""
    name, serving = queue.name, fleet.serving(queue.name)
    quoted = shlex.quote(name)
    if fleet.closed:
        return Cause(
            "queued.closed_shard",
            "This shard was closed when the number of shards changed; nothing is taken from it any more.",
            [Fact("the shard is closed", "paused")],
            ["start a program with the old number of shards until it is empty"],
            problem=True,
        )
    if f"queue:{name}" in fleet.paused:
        return Cause(
            "queued.paused",
            f"Queue {name} is paused.",
            [Fact("the queue is paused", "paused"), *who_did("pause", f"queue:{name}", acts)],
            [f"tracked-queue resume --queue {quoted}"],
            problem=True,
        )
    live = [item for item in serving if item.alive]
    if not serving:
        others = sorted({other for item in fleet.instances if item.alive for other in item.queues})
        return Cause(
            "queued.unserved",
            f"No instance serves queue {name}.",
            [Fact(f"live instances serve: {', '.join(others) or 'nothing, since there are none'}", "instances")],
            [f"tracked-queue worker MODULE:APP --queue {quoted}", "enqueue to a queue that is served"],
            problem=True,
        )
    if not live:
        oldest = max((-item.deadline_s for item in serving), default=0.0)
        return Cause(
            "queued.late_leases",
            f"All {plural(len(serving), 'instance')} of queue {name} have stopped beating: lost, frozen or cut off.",
            [Fact(f"the first lease ran out {seconds(oldest)} ago", "instances", oldest)],
            ["tracked-queue instances", f"tracked-queue worker MODULE:APP --queue {quoted}"],
            problem=True,
        )
    if all(item.quiet for item in live):
        return Cause(
            "queued.quiet",
            f"Every instance of queue {name} was told to fetch nothing.",
            [
                Fact(f"quiet: {', '.join(item.label or item.lease for item in live[:5])}", "instances"),
                *who_did("quiet", live[0].label, acts, key="instance"),
            ],
            [f"tracked-queue quiet --undo {shlex.quote(live[0].label or live[0].lease)}"],
            problem=True,
        )
    return None


def queue_busy(fleet: Fleet, queue: QueueScene) -> Cause | None:
    """Why jobs of a queue that is served wait all the same."""
    live = [item for item in fleet.serving(queue.name) if item.alive and not item.quiet]
    slots, owned = sum(item.concurrency for item in live), sum(item.owned for item in live)
    preferred = [
        {name: queue.before.get(name, 0) for name in item.queues[: item.queues.index(queue.name)]} for item in live
    ]
    if preferred and all(any(lengths.values()) for lengths in preferred):
        fullest = max(queue.before, key=lambda name: queue.before[name])
        return Cause(
            "queued.starved",
            f"Its instances take from other queues first, and those hold jobs: {fullest} has {queue.before[fullest]}.",
            [Fact(f"order of queues: {', '.join(live[0].queues)}", "instances", likely=True)],
            [
                "give queues weights: --queue a=5 --queue b=1",
                f"start a worker for --queue {shlex.quote(queue.name)} alone",
            ],
        )
    if slots and owned >= slots:
        return Cause(
            "queued.full",
            f"All places are taken on the {plural(len(live), 'instance')} of queue {queue.name}.",
            [Fact(f"{plural(owned, 'job')} there, {plural(slots, 'place')}", "processing:<lease>, instance:<lease>")],
            ["tracked-queue instances --jobs", "start more workers", "raise --concurrency"],
        )
    capped = [item.most.get(queue.name, math.inf) for item in live]
    if live and all(item.owned >= most for item, most in zip(live, capped, strict=True)):
        return Cause(
            "queued.queue_cap",
            f"Each instance of queue {queue.name} runs only so many jobs of it at once, and seems to run as many.",
            [
                Fact(
                    f"{item.label or item.lease} may run {item.most[queue.name]} of it, and owns {plural(item.owned, 'job')}",
                    "instance:<lease>, processing:<lease>",
                    likely=True,
                )
                for item in live[:5]
            ],
            [
                f"raise --queue-concurrency {shlex.quote(queue.name)}=...",
                "tracked-queue instances --jobs",
                "start more workers",
            ],
        )
    return None


def queue_cause(fleet: Fleet, queue: QueueScene, acts: Sequence[Act]) -> Cause:
    """How a queue stands."""
    waiting = queue.ready + queue.suspects + queue.limited
    facts = [
        Fact(
            f"{queue.ready} ready, {queue.limited} in lanes, {queue.suspects} suspects",
            "queue:<queue>, laned, suspected:<queue>",
        ),
        Fact(
            f"served by {plural(len([i for i in fleet.serving(queue.name) if i.alive]), 'live instance')}", "instances"
        ),
    ]
    stands = queue_stands(fleet, queue, acts)
    if stands is not None:
        cause = dataclasses.replace(stands, problem=stands.problem and waiting > 0)
    elif waiting and waiting == queue.limited:
        cause = queue_busy(fleet, queue) or Cause(
            "queue.limited",
            f"{plural(waiting, 'job')} wait in lanes, for limits or for their turn.",
            do=["tracked-queue limits"],
        )
    elif waiting:
        cause = queue_busy(fleet, queue) or Cause(
            "queue.moving", f"{plural(waiting, 'job')} wait, and workers take them."
        )
    else:
        cause = Cause("queue.empty", "It is empty, and served.")
    return dataclasses.replace(cause, code=cause.code.replace("queued.", "queue."), facts=[*facts, *cause.facts])


def limit_cause(limit: LimitScene, now: int) -> Cause | None:
    """Why a limit has no place free; None if it has."""
    name = limit_shown(limit.name) or limit.name
    if limit.kind == "rate":
        left = limit.nth_start + limit.ms - now
        if not limit.nth_start or left <= 0:
            return None
        return Cause(
            "lane.rate",
            f"Limit {name} allows {limit.most} starts in {seconds(limit.ms / 1000)}, and they are used; the next one is "
            f"{seconds(left / 1000)} away.",
            [Fact(f"the last start was {seconds((now - limit.last_start) / 1000)} ago", "rate:<limit>")],
            ["raise the rate in the code, and deploy"],
        )
    if limit.most and limit.in_use >= limit.most:
        held = "; ".join(
            f"{holder.id} ({holder.state or 'no record'}{'' if holder.age_s is None else f', {seconds(holder.age_s)}'})"
            for holder in limit.holders
        )
        facts = [Fact(f"{limit.in_use} of {limit.most} places taken, among others by {held}", "permits:<limit>")]
        if limit.leaked:
            return Cause(
                "lane.leaked_permit",
                f"Limit {name} is full, and a place of it is held by a job that does not run: {limit.leaked[0].id}.",
                facts,
                [f"SREM the id from permits:{limit.name} once you are sure that it does not run"],
                problem=True,
            )
        return Cause(
            "lane.concurrency",
            f"Limit {name} is full: {limit.in_use} of {limit.most} places are taken.",
            facts,
            [f"tracked-queue explain --limit {shlex.quote(name)}", "raise the limit in the code, and deploy"],
        )
    return None


def instance_cause(item: InstanceReport) -> Cause:
    """How an instance stands."""
    seen = "never" if item.seen_s is None else f"{seconds(max(0.0, item.seen_s))} ago"
    facts = [
        Fact(f"label {item.label}, host {item.host}, pid {item.pid}, version {item.version}", "instance:<lease>"),
        Fact(
            f"{item.owned} jobs, {item.concurrency} places; last beat {seen}",
            "instance:<lease>, processing:<lease>",
            item.seen_s,
        ),
    ]
    if item.revoked or not item.alive:
        late = seconds(max(0.0, -item.deadline_s))
        return Cause(
            "instance.lost" if item.owned else "instance.over",
            ("It gave up its lease" if item.revoked else f"Its lease ran out {late} ago")
            + (f", and {plural(item.owned, 'job')} of it are not moved yet." if item.owned else "; it owns no jobs."),
            facts,
            ["tracked-queue recover"] if item.owned else [],
            problem=item.owned > 0,
        )
    if item.quiet:
        return Cause(
            "instance.quiet",
            "It fetches no more jobs; what it has goes on.",
            facts,
            [f"tracked-queue quiet --undo {shlex.quote(item.label or item.lease)}"],
        )
    if item.tests:
        return Cause("instance.testing", "It runs suspects, and takes nothing else meanwhile.", facts)
    if item.owned >= item.concurrency > 0:
        return Cause("instance.full", "All its places are taken.", facts, ["tracked-queue instances --jobs"])
    return Cause("instance.well", "It lives and fetches.", facts)


def shard_problems(fleet: Fleet, backlog: Backlog) -> list[Cause]:
    """What is wrong with the instances of a shard, and with what lies in time there."""
    found = []
    lost = [item for item in fleet.instances if not item.alive and item.owned]
    live = [item for item in fleet.instances if item.alive]
    if lost:
        jobs, oldest = sum(item.owned for item in lost), max(max(0.0, -item.deadline_s) for item in lost)
        found.append(
            Cause(
                "fleet.lost",
                f"{plural(jobs, 'job')} of {plural(len(lost), 'lost instance')} not recovered yet.",
                [Fact(f"the first lease ran out {seconds(oldest)} ago", "instances", oldest)],
                ["tracked-queue recover"] if live else ["tracked-queue worker MODULE:APP"],
                problem=not live or oldest > LEFT_ALONE_S,
            )
        )
    if not live:
        found.append(
            Cause(
                "fleet.nobody",
                "No instance lives.",
                do=["tracked-queue worker MODULE:APP"],
                problem=bool(fleet.instances or backlog.first_due),
            )
        )
    elif all(item.quiet for item in live):
        found.append(
            Cause(
                "fleet.quiet",
                "Every live instance is quiet: nothing is fetched.",
                do=["tracked-queue instances"],
                problem=True,
            )
        )
    if fleet.hold_until > fleet.now:
        found.append(
            Cause(
                "fleet.hold",
                f"After an outage nobody is called dead for {seconds((fleet.hold_until - fleet.now) / 1000)} more.",
                [Fact("a hold", "hold")],
            )
        )
    overdue = (fleet.now - backlog.first_due) / 1000 if backlog.first_due else 0.0
    if overdue > OVERDUE_S:
        found.append(
            Cause(
                "fleet.overdue",
                f"The first scheduled job was due {seconds(overdue)} ago.",
                [Fact("nobody makes due jobs takeable", "scheduled", overdue)],
                ["tracked-queue instances"],
                problem=True,
            )
        )
    if backlog.dead_lately:
        many = f"{backlog.dead_lately}" if backlog.dead_lately < 1000 else "at least 1000"
        found.append(
            Cause(
                "fleet.dead",
                f"{many} {'job has' if many == '1' else 'jobs have'} died in the last {LATELY_MIN} minutes.",
                [Fact("dead jobs", "dead")],
                ["tracked-queue dead list"],
                problem=True,
            )
        )
    if backlog.suspecting:
        found.append(
            Cause(
                "fleet.suspects",
                f"{plural(backlog.suspecting, 'queue')} hold suspects: jobs that were there when a process died.",
                do=["tracked-queue queues"],
            )
        )
    for limit in backlog.blocked[:5]:
        name = f"{limit.limit} {limit.key}".strip()
        waits = limit.waits_s or 0.0
        found.append(
            Cause(
                "fleet.limit",
                f"Limit {name} has let nothing pass for {seconds(waits)}, and {plural(limit.lanes, 'lane')} wait for it.",
                [Fact(f"{limit.in_use} of {limit.most} in use", "waits:<limit>, permits:<limit>", waits)],
                [f"tracked-queue explain --limit {shlex.quote(name)}"],
                problem=waits > BLOCKED_LONG_S,
            )
        )
    for name, silent in list(backlog.silent.items())[:5]:
        found.append(
            Cause(
                "fleet.schedule",
                f"No instance has run schedule {name} for {seconds(silent)}.",
                [Fact("its last report", "schedules", silent)],
                ["start a worker whose code has it", "tracked-queue schedules"],
            )
        )
    return found


def who_did(action: str, what: str, acts: Sequence[Act], key: str = "what") -> list[Fact]:
    """Who did this last, if it is remembered."""
    found = next((act for act in acts if act.action == action and act.facts.get(key) == what), None)
    return [] if found is None else [Fact(f"{action} by {found.by}", "acts", age_of(found))]


def age_of(act: Act) -> float | None:
    """Seconds since an act, by this machine's clock."""
    return None if act.at is None else max(0.0, (datetime.now(UTC) - act.at).total_seconds())


def since(at: datetime | None, now: int) -> float | None:
    """Seconds from a moment to `now` (ms)."""
    return None if at is None else max(0.0, (moment(now) - at).total_seconds())


def moment(ms: float) -> datetime:
    """A time in ms; one beyond the range of dates is cut to it."""
    return datetime.fromtimestamp(min(max(ms, 0), 253402300799000) / 1000, UTC)
