"""
`explain`: why a job does not run, why it ran twice, where its time went, and what is wrong with a queue, task, instance,
limit or the whole fleet.

What is read is in reports/scene.py; what follows from it is decided in job_causes.py, standing.py and timeline.py, without
I/O. Source: docs/reference/explain.md.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from ..errors import UnreadableJobError
from ..model.cipher import Cipher
from ..model.record import JobInfo
from ..protocol.events import read_events
from ..reports.instances import InstanceReport
from ..reports.jobs import make_info
from ..reports.memory import read_acts
from ..reports.queues import Overview
from ..reports.runs import runs_of
from ..reports.scene import (
    LimitScene,
    count_parked,
    limit_names,
    read_absence,
    read_backlog,
    read_fleet,
    read_job_scene,
    read_limit_scene,
    read_queue_scene,
)
from ..reports.times import Times, read_times
from ..transport.store import Store
from .explanation import Cause, Explanation, Fact, plural, seconds
from .job_causes import UNREADABLE, absent, cause_of
from .standing import GRAVITY, LATELY_MIN, instance_cause, limit_cause, moment, queue_cause, shard_problems, who_did
from .timeline import pauses_of, segments_of, why_twice


async def explain_job(stores: Sequence[Store], shard: int, job_id: str, cipher: Cipher) -> Explanation:
    """One job: why it is where it is, why it ran more than once, and where its time went."""
    about, store = f"job {job_id}", stores[shard]
    record = await store.read_record(job_id)
    acts = await read_acts(stores[0], 200)
    if not record:
        others = [at for at, other in enumerate(stores) if at != shard and await other.read_record(job_id)]
        return absent(job_id, record, others, await read_absence(store, job_id), acts).of(about)
    scene = await read_job_scene(store, job_id, record)
    try:
        info = make_info(job_id, record, None, cipher)
    except UnreadableJobError:
        return UNREADABLE.of(about)
    runs = runs_of(read_events(record), record)
    twice, sentence = why_twice(info, runs)
    now = moment(scene.fleet.now)
    parts, total_s = segments_of(info, runs, now, pauses_of(info, acts, now))
    cause = cause_of(scene, info, acts)
    times = await read_times([store], 3 * 60)
    cause = dataclasses.replace(cause, facts=[*cause.facts, *_usual(info, times)])
    return dataclasses.replace(
        cause.of(about),
        runs=tuple(runs),
        twice=twice,
        twice_sentence=sentence,
        segments=tuple(parts),
        total_s=total_s,
    )


def _usual(info: JobInfo, times: Times) -> list[Fact]:
    """How long others of its task run, and others of its queue wait."""
    found = []
    for what, histogram in (("run", times.runs.get(info.task)), ("wait", times.waits.get(info.queue))):
        if histogram is not None and histogram.total:
            half, most = histogram.quantile(0.5) or 0.0, histogram.quantile(0.95) or 0.0
            about = f"of task {info.task}: half took" if what == "run" else f"of queue {info.queue}: half waited"
            text = f"{plural(histogram.total, what)} {about} up to {seconds(half)}, 95 of 100 up to {seconds(most)}"
            found.append(Fact(text, "the last hours"))
    return found


async def explain_queue(stores: Sequence[Store], name: str) -> list[Explanation]:
    """A queue, in each shard where there is something to say."""
    acts = await read_acts(stores[0], 200)
    found = []
    for shard, store in enumerate(stores):
        fleet = await read_fleet(store)
        queue = await read_queue_scene(store, fleet, name)
        about = f"queue {name}" + (f" in shard {shard}" if len(stores) > 1 else "")
        found.append(queue_cause(fleet, queue, acts).of(about))
    return found


async def explain_task(stores: Sequence[Store], name: str) -> Explanation:
    """A task: whether the fleet knows it, and whether it is paused or has parked jobs."""
    acts = await read_acts(stores[0], 200)
    fleets = [await read_fleet(store) for store in stores]
    known = sum(len(fleet.with_task(name)) for fleet in fleets)
    parked = sum([await count_parked(store, name) for store in stores])
    facts = [
        Fact(f"known to {plural(known, 'live instance')}", "instances"),
        Fact(f"{plural(parked, 'parked job')}", "parked:<task>"),
    ]
    quoted = shlex.quote(name)
    if any(f"task:{name}" in fleet.paused for fleet in fleets):
        cause = Cause(
            "task.paused",
            "It is paused.",
            [*facts, *who_did("pause", f"task:{name}", acts)],
            [f"tracked-queue resume --task {quoted}"],
            problem=parked > 0,
        )
    elif not known:
        cause = Cause(
            "task.unknown",
            "No live instance knows it.",
            facts,
            ["deploy the code that has the task", f"tracked-queue retire --task {quoted}"],
            problem=parked > 0,
        )
    else:
        cause = Cause("task.known", "It is known to the fleet and not paused.", facts)
    return cause.of(f"task {name}")


def explain_instance(name: str, instances: Sequence[InstanceReport]) -> list[Explanation]:
    """The instances of a lease or a label."""
    found = [item for item in instances if name in (item.lease, item.label)]
    if not found:
        return [
            Cause(
                "instance.gone",
                "No instance has this lease or label: it has stopped, or it was lost and its jobs were moved.",
                do=["tracked-queue audit", "tracked-queue instances"],
            ).of(f"instance {name}")
        ]
    return [instance_cause(item).of(f"instance {item.lease}") for item in found]


async def explain_limit(stores: Sequence[Store], name: str) -> list[Explanation]:
    """A limit by its name, or that of its task or queue, in each shard that knows something of it."""
    found = list[Explanation]()
    for shard, store in enumerate(stores):
        fleet = await read_fleet(store)
        where = f" in shard {shard}" if len(stores) > 1 else ""
        for stored in dict.fromkeys(await limit_names(store, name)):
            limit = await read_limit_scene(store, fleet.now, stored, waits=10)
            if limit.in_use or limit.last_start or limit.queues or (limit.most and not shard):
                found.append(_limit_explained(limit, fleet.now, f"limit {name}{where}"))
    # What holds jobs back comes first: of one name there may be a concurrency and rates.
    found.sort(key=lambda one: one.code == "limit.free")
    unknown = "Nothing has or waits for a limit of this name; write the whole name, with its key's value."
    return found or [Cause("limit.unknown", unknown).of(f"limit {name}")]


def _limit_explained(limit: LimitScene, now: int, about: str) -> Explanation:
    waits = ", ".join(f"{plural(count, 'lane')} of {queue}" for queue, count in limit.queues.items())
    facts = [Fact(f"waiting: {waits or 'nothing'}", "waits:<limit>")]
    cause = limit_cause(limit, now)
    if cause is None:
        taken = f"{limit.in_use} of {limit.most or '?'} taken"
        if limit.kind == "rate":
            taken = f"it allows {limit.most or '?'} starts in {seconds(limit.ms / 1000)}"
        return Cause("limit.free", f"It has places free: {taken}.", facts).of(about)
    code = cause.code.replace("lane.", "limit.")
    holders = [f"tracked-queue explain {holder.id}" for holder in limit.holders[:1] if code == "limit.concurrency"]
    do = holders + [one for one in cause.do if "explain --limit" not in one]
    return dataclasses.replace(cause, code=code, facts=[*cause.facts, *facts], do=do).of(about)


async def problems_of(stores: Sequence[Store], overview: Overview) -> list[Explanation]:
    """What is wrong, or about to be, over all shards; the gravest first."""
    found, versions = list[Explanation](), set[str]()
    for shard, store in enumerate(stores):
        fleet = await read_fleet(store)
        versions |= {item.version for item in fleet.instances if item.alive and item.version}
        backlog = await read_backlog(store, fleet.now, LATELY_MIN)
        where = f"fleet, shard {shard}" if len(stores) > 1 else "fleet"
        found += [cause.of(where) for cause in shard_problems(fleet, backlog)]
    for queue in overview.queues:
        if queue.unserved:
            found.append(
                Cause(
                    "fleet.unserved",
                    f"Queue {queue.queue} holds {plural(queue.length, 'job')}, and no live instance serves it.",
                    [
                        Fact(
                            f"the oldest has waited for {seconds(queue.oldest_s or 0.0)}",
                            "queue:<queue>",
                            queue.oldest_s,
                        )
                    ],
                    [f"tracked-queue explain --queue {shlex.quote(queue.queue)}"],
                    problem=True,
                ).of(f"queue {queue.queue}")
            )
        elif queue.paused and queue.length:
            found.append(
                Cause(
                    "fleet.paused",
                    f"Queue {queue.queue} is paused, and holds {plural(queue.length, 'job')}.",
                    do=[f"tracked-queue resume --queue {shlex.quote(queue.queue)}"],
                    problem=True,
                ).of(f"queue {queue.queue}")
            )
    for parked in overview.parked:
        if parked.length:
            why = "it is paused" if parked.paused else "no live instance knows it"
            found.append(
                Cause(
                    "fleet.parked",
                    f"Task {parked.task} has {plural(parked.length, 'parked job')}: {why}.",
                    do=[f"tracked-queue explain --task {shlex.quote(parked.task)}"],
                    problem=True,
                ).of(f"task {parked.task}")
            )
    if len(versions) > 1:
        found.append(
            Cause(
                "fleet.versions", f"Several versions of tracked_queue work together: {', '.join(sorted(versions))}."
            ).of("fleet")
        )
    return sorted(found, key=lambda one: (one.code != "fleet.lost" and not one.problem, GRAVITY.get(one.code, 9)))
