"""Why a job is where it is: one cause out of what was read of it and around it. It does no I/O."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from ..model.record import JobInfo
from ..protocol.events import read_events
from ..protocol.states import State
from ..reports.instances import InstanceReport
from ..reports.memory import Act
from ..reports.reading import number_of
from ..reports.scene import (
    Absence,
    JobScene,
    QueueScene,
)
from .explanation import Cause, Fact, plural, seconds
from .standing import LEFT_ALONE_S, age_of, limit_cause, moment, queue_busy, queue_stands, since, who_did

# A job that has waited for less than this is on its way.
JUST_NOW_S = 2.0
UNREADABLE = Cause(
    "absent.unreadable",
    "There is something of this id that is no job record: another program wrote it.",
    do=["look at the key by hand"],
    problem=True,
)


def absent(
    job_id: str, record: Mapping[bytes, bytes] | None, others: Sequence[int], found: Absence, acts: Sequence[Act]
) -> Cause:
    """Why there is no record of this id."""
    if record is None:
        return UNREADABLE
    if others:
        return Cause(
            "absent.shard",
            f"It is in shard {others[0]}, and not where its id says: it was stored with another number of shards.",
            [Fact("its record is there", f"job:{job_id} in shard {others[0]}")],
            problem=True,
        )
    if found.end is not None:
        state, ms = found.end
        return Cause(
            "absent.ended",
            f"It ended '{state}' at {moment(ms):%Y-%m-%d %H:%M:%S} UTC, and its record has expired since (result_ttl).",
            [Fact(f"it is among the last ends of its queue: {state}", "ends:<queue>")],
        )
    purged = next((act for act in acts if act.action == "purge" and job_id in (act.facts.get("ids") or ())), None)
    if purged is not None:
        return Cause(
            "absent.purged",
            f"It was dead, and {purged.by} purged it.",
            [Fact(f"purge by {purged.by}", "acts", age_of(purged))],
        )
    if found.evicted:
        return Cause(
            "absent.evicted",
            "It was never here, has expired, or Redis has evicted it: this server throws keys away when its memory is full.",
            [Fact(f"{found.evicted} keys evicted, maxmemory-policy {found.policy}", "INFO", likely=True)],
            ["set maxmemory-policy noeviction", "tracked-queue doctor"],
            problem=True,
        )
    return Cause(
        "absent.unknown",
        "No job of this id is here: it was never stored in this namespace, was folded into another one by a unique key, "
        "or ended and expired.",
        [Fact(f"the server has been up for {seconds(found.uptime_s)}", "INFO")],
        ["check --namespace and --redis-url"],
    )


def cause_of(scene: JobScene, info: JobInfo, acts: Sequence[Act]) -> Cause:
    """Why a job that is there is where it is."""
    match info.state:
        case State.QUEUED:
            return _queued(scene, info, acts)
        case State.SCHEDULED:
            return _scheduled(scene, info)
        case State.WAITING:
            return _waiting(scene, info)
        case State.PARKED:
            return _parked(scene, info, acts)
        case State.ACTIVE:
            return _active(scene, info)
        case _:
            return _ended(scene, info)


def _queued(scene: JobScene, info: JobInfo, acts: Sequence[Act]) -> Cause:
    fleet, queue = scene.fleet, scene.queue
    assert queue is not None
    waited = waited_s(scene.record, fleet.now)
    facts = [Fact(f"in queue {queue.name} for {seconds(waited)}", "record")]
    if not scene.listed:
        return Cause(
            "queued.unlisted",
            "Its record says that it is queued, and its id is in no list: another program has changed them.",
            facts,
            [f"tracked-queue cancel {shlex.quote(info.id)}", "enqueue it again"],
            problem=True,
        )
    stopped = queue_stands(fleet, queue, acts)
    if stopped is not None:
        return dataclasses.replace(stopped, facts=[*facts, *stopped.facts])
    limited = _limited(scene, info)
    if limited is not None:
        return dataclasses.replace(limited, facts=[*facts, *limited.facts])
    if b"pool" in scene.record:
        testing = ", ".join(scene.testing) or "none"
        return Cause(
            "queued.suspect",
            f"It is a suspect: {plural(number_of(scene.record.get(b'deaths')), 'process', 'processes')} died with it, so it "
            "waits for an empty process.",
            [*facts, Fact(f"{_ahead(scene)}; suspects run now on: {testing}", "suspected:<queue>, testing")],
            [
                "start a worker with free places, or let one with --processes 2 or more test it",
                f"tracked-queue cancel {info.id}",
            ],
        )
    busy = queue_busy(fleet, queue)
    if busy is not None:
        return dataclasses.replace(busy, facts=[*facts, Fact(_ahead(scene), "queue:<queue>"), *busy.facts])
    if waited < JUST_NOW_S:
        return Cause("queued.just_now", "It was queued a moment ago, and a worker is about to take it.", facts)
    if not queue.marker and scene.ahead is not None:
        return Cause(
            "queued.marker_missing",
            "Workers with free places wait, and the marker that wakes them is not set; the next fetch of this queue sets it.",
            [*facts, Fact("no marker", "wake:<queue>")],
            [f"tracked-queue resume --queue {shlex.quote(queue.name)}", "enqueue another job there"],
            problem=True,
        )
    return _behind(scene, queue, facts)


def _behind(scene: JobScene, queue: QueueScene, facts: Sequence[Fact]) -> Cause:
    rate = f"about {queue.rate * 60:.0f} a minute leave the queue"
    when = ""
    if queue.rate > 0 and scene.ahead is not None:
        when = f"; at the present rate its turn comes in about {seconds(scene.ahead / queue.rate)}"
    return Cause(
        "queued.behind",
        f"It waits for its turn: {_ahead(scene)}{when}.",
        [*facts, Fact(rate, f"stats of the last {5} minutes", likely=True)],
        ["start more workers", "raise their concurrency"],
    )


def _ahead(scene: JobScene) -> str:
    if scene.ahead is None:
        return "more than 10,000 jobs come before it"
    return f"{plural(scene.ahead, 'job comes', 'jobs come')} before it" if scene.ahead else "it is the next one"


def _limited(scene: JobScene, info: JobInfo) -> Cause | None:
    """Why a job waits in its lane."""
    if info.lane is None or b"pool" in scene.record:
        return None
    for limit in scene.limits:
        cause = limit_cause(limit, scene.fleet.now)
        if cause is not None and scene.lane_turn is None:
            return cause
    if scene.lane_turn:
        return Cause(
            "lane.turn",
            f"Its lane takes turns with others: {plural(scene.lane_turn, 'lane comes', 'lanes come')} before it, and "
            f"{_ahead(scene)} in its own.",
            [Fact(f"lane {info.lane!r}", "lanes:<queue>")],
            ["start more workers"],
        )
    return None


def _scheduled(scene: JobScene, info: JobInfo) -> Cause:
    now, due = scene.fleet.now, number_of(scene.record.get(b"due_ms"))
    left = (due - now) / 1000
    last = info.history[-1] if info.history else None
    facts = [Fact(f"due at {moment(due):%Y-%m-%d %H:%M:%S} UTC", "record")]
    if not scene.listed:
        return Cause(
            "scheduled.unlisted",
            "Its record says that it is scheduled, and its id is not in the schedule: another program has changed it.",
            facts,
            [f"tracked-queue cancel {shlex.quote(info.id)}", "enqueue it again"],
            problem=True,
        )
    if left < -JUST_NOW_S:
        live = [item for item in scene.fleet.instances if item.alive and not item.quiet]
        return Cause(
            "scheduled.overdue",
            f"It was due {seconds(-left)} ago, and nobody has taken it up"
            + (
                ": there is no live instance that fetches."
                if not live
                else "; an instance should at its next fetch or beat."
            ),
            [
                *facts,
                Fact(
                    f"{len(live)} live instances fetch; the timer is with {scene.timer or 'nobody'}", "instances, timer"
                ),
            ],
            ["tracked-queue instances", "tracked-queue worker MODULE:APP"],
            problem=True,
        )
    soon = f"it is due in {seconds(max(0.0, left))}"
    if last is not None and last.kind == "retry":
        attempts = f"attempt {info.attempts}"
        return Cause(
            "scheduled.retry",
            f"It failed and will be tried again: {soon}.",
            [*facts, Fact(f"{attempts} ended: {last.detail or 'an error'}", "history", since(last.at, now))],
            [f"tracked-queue job {shlex.quote(info.id)}"],
        )
    if last is not None and last.kind == "snoozed":
        return Cause(
            "scheduled.snoozed",
            f"It put itself off (Snooze): {soon}.",
            [*facts, Fact(f"snoozed {info.snoozes} times", "record")],
        )
    return Cause("scheduled.delay", f"It was enqueued with a delay: {soon}.", facts)


def _waiting(scene: JobScene, info: JobInfo) -> Cause:
    named = [f"{job_id} ({state or 'gone'})" for job_id, state in scene.before]
    facts = [Fact(f"it comes after {', '.join(named) or 'other jobs'}", "record, their records")]
    if b"gathering" in scene.record:
        return Cause(
            "waiting.gathering",
            "Its enqueue names more jobs than one call can take, and is not finished; if it stopped halfway, the job fails "
            "after an hour.",
            facts,
        )
    stuck = [job_id for job_id, state in scene.before if state in ("dead", "parked")]
    if stuck:
        return Cause(
            "waiting.stuck",
            f"It waits for {plural(info.waits_for, 'job')}, of which {stuck[0]} will not end by itself.",
            facts,
            [f"tracked-queue explain {shlex.quote(stuck[0])}"],
            problem=True,
        )
    ended = [job_id for job_id, state in scene.before if state in ("succeeded", "failed", "cancelled", "expired", None)]
    if scene.before and len(ended) == len(scene.before) == len(info.after):
        return Cause(
            "waiting.untold",
            "All jobs before it have ended, and it has not been told: that is done by the next fetch or beat of any worker.",
            facts,
            ["tracked-queue worker MODULE:APP"],
            problem=not any(item.alive for item in scene.fleet.instances),
        )
    return Cause(
        "waiting.on",
        f"It waits for {plural(info.waits_for, 'job')} that come before it.",
        facts,
        [f"tracked-queue explain {shlex.quote(scene.before[0][0])}"] if scene.before else [],
    )


def _parked(scene: JobScene, info: JobInfo, acts: Sequence[Act]) -> Cause:
    fleet, task = scene.fleet, info.task
    if f"task:{task}" in fleet.paused:
        return Cause(
            "parked.task_paused",
            f"Task {task} is paused.",
            [Fact("the task is paused", "paused"), *who_did("pause", f"task:{task}", acts)],
            [f"tracked-queue resume --task {shlex.quote(task)}"],
            problem=True,
        )
    versions = sorted({item.version for item in fleet.instances if item.alive})
    if fleet.with_task(task):
        return Cause(
            "parked.moving",
            f"An instance that knows task {task} is there, and moves its parked jobs back with its next beats.",
            [Fact(f"known to {plural(len(fleet.with_task(task)), 'instance')}", "instances")],
        )
    return Cause(
        "parked.unknown_task",
        f"No live instance knows task {task}: it was removed, renamed, or its code is not deployed yet.",
        [Fact(f"versions that live: {', '.join(versions) or 'none'}", "instances")],
        ["deploy the code that has the task", f"tracked-queue retire --task {shlex.quote(task)}"],
        problem=True,
    )


def _active(scene: JobScene, info: JobInfo) -> Cause:
    fleet = scene.fleet
    owner = next((item for item in fleet.instances if item.lease == info.lease), None)
    age = (fleet.now - (info.delivery or fleet.now)) / 1000
    facts = [
        Fact(f"handed to {owner.label if owner else info.lease} {seconds(age)} ago (lease {info.lease})", "record")
    ]
    if owner is None or not owner.alive:
        return _lost(scene, info, owner, facts)
    if not scene.listed:
        return Cause(
            "active.unlisted",
            "Its record says that it runs, and its id is not in its instance's list: another program has changed them.",
            facts,
            [f"tracked-queue cancel {shlex.quote(info.id)}"],
            problem=True,
        )
    if info.progress is not None:
        total = "" if info.progress.total is None else f" of {info.progress.total:g}"
        facts.append(Fact(f"progress {info.progress.done:g}{total} {info.progress.note}".rstrip(), "record"))
    if info.lines:
        facts.append(Fact(f"its last line: {info.lines[-1].text}", "record", since(info.lines[-1].at, fleet.now)))
    if info.cancel_requested:
        asked = next((event for event in reversed(info.history) if event.kind == "cancel"), None)
        by = f" by {asked.detail}" if asked and asked.detail else ""
        waits = since(asked.at, fleet.now) if asked else None
        late = waits is not None and waits > LEFT_ALONE_S
        return Cause(
            "active.cancel_ignored" if late else "active.cancel_pending",
            f"Its cancellation was asked for{by}"
            + (
                f" {seconds(waits or 0.0)} ago, and its function has not ended."
                if late
                else "; its instance learns of it within a second."
            ),
            facts,
            [f"tracked-queue quiet {shlex.quote(owner.label)}", "end that worker process"] if late else [],
            problem=late,
        )
    if info.started_at is None:
        return Cause(
            "active.buffered",
            f"It is in instance {owner.label}, and waits there for a place; after a second it goes back to its queue.",
            [*facts, Fact(f"{owner.owned} jobs there, {owner.concurrency} places", "instances")],
        )
    return Cause(
        "active.running",
        f"It runs on {owner.label}, for {seconds(since(info.started_at, fleet.now) or 0.0)}.",
        [
            *facts,
            Fact(
                f"attempt {info.attempts}; its lease is held for {seconds(owner.deadline_s)} more", "record, instances"
            ),
        ],
        [f"tracked-queue cancel {shlex.quote(info.id)}"],
    )


def _lost(scene: JobScene, info: JobInfo, owner: InstanceReport | None, facts: Sequence[Fact]) -> Cause:
    fleet = scene.fleet
    live = [item for item in fleet.instances if item.alive]
    if owner is None:
        return Cause(
            "lost.no_lease",
            f"Its record says that it runs under lease {info.lease}, which is gone, and no recovery has moved it.",
            facts,
            ["tracked-queue recover", "tracked-queue doctor"],
            problem=True,
        )
    late = max(0.0, -owner.deadline_s)
    facts = [
        *facts,
        Fact(
            "its instance gave up the lease" if owner.revoked else f"the lease ran out {seconds(late)} ago",
            "instances",
            late,
        ),
    ]
    if fleet.hold_until > fleet.now:
        return Cause(
            "lost.hold",
            "Its instance is silent, but so was the whole fleet or Redis: nobody is called dead for "
            f"{seconds((fleet.hold_until - fleet.now) / 1000)} more.",
            [*facts, Fact("a hold after an outage", "hold")],
        )
    if not live:
        return Cause(
            "lost.nobody_to_sweep",
            "Its instance is lost, and no other one lives that could move the job.",
            facts,
            ["tracked-queue worker MODULE:APP", "tracked-queue recover"],
            problem=True,
        )
    taken_ms, _, sweep = fleet.sweep.partition(" ")
    if sweep.startswith(f"{info.lease} "):
        by = sweep.partition(" ")[2]
        return Cause(
            "lost.sweep_busy",
            f"Its instance is lost, and {by} is moving that instance's jobs, portion by portion.",
            [*facts, Fact(f"swept since {moment(number_of(taken_ms.encode())):%H:%M:%S} UTC", "recovery_lock")],
        )
    if late > LEFT_ALONE_S:
        return Cause(
            "lost.auto_recovery_off",
            f"Its instance was lost {seconds(late)} ago, and the {plural(len(live), 'live instance')} have not moved its jobs: "
            "auto_recovery is off.",
            [*facts, Fact("live instances sweep within seconds unless auto_recovery is off", "settings", likely=True)],
            ["tracked-queue recover", "set auto_recovery"],
            problem=True,
        )
    return Cause(
        "lost.waiting",
        "Its instance is lost; a live one will move the job to the head of its queue within seconds.",
        facts,
    )


def _ended(scene: JobScene, info: JobInfo) -> Cause:
    now, reason = scene.fleet.now, info.reason or ""
    age = since(info.finished_at, now)
    facts = [Fact(f"ended at {info.finished_at:%Y-%m-%d %H:%M:%S} UTC", "record")] if info.finished_at else []
    ago = "" if age is None else f" {seconds(age)} ago"
    quoted = shlex.quote(info.id)
    if info.state is not State.DEAD:
        return Cause(f"ended.{info.state}", f"It ended '{info.state}'{ago}{f': {reason}' if reason else ''}.", facts)
    again = [f"tracked-queue dead requeue {quoted}", f"tracked-queue dead purge {quoted}"]
    if b"raw" in scene.record:
        code, why = "dead.buried", "an id was found in a list without a record that can be read"
    elif reason.startswith("attempts exhausted"):
        code, why = "dead.attempts", reason
    elif reason.startswith("its process died"):
        code, why = "dead.charges", reason
    elif reason.startswith("set aside"):
        code, why = "dead.set_aside", reason
    else:
        code, why = "dead.unusable", reason or "its record can't be used"
    return Cause(code, f"It died{ago}: {why}.", facts, again, problem=True)


def waited_s(record: Mapping[bytes, bytes], now: int) -> float:
    """For how long a queued job has been takeable: since its enqueue, its due time, or what brought it back."""
    back = [
        event.ms
        for event in read_events(record)
        if event.kind in ("recovered", "interrupted", "unstarted", "requeued", "bound")
    ]
    since = max(number_of(record.get(b"queued_ms")), number_of(record.get(b"due_ms")), *back, 0)
    return max(0.0, (now - since) / 1000)
