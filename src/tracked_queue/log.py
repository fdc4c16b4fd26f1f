"""
Every log event of tracked_queue, one function each: `noun.past_verb`, facts as fields.

Arguments and results of jobs are never logged. Only the CLI configures structlog; an application that runs a worker
in its own process keeps its own configuration, and can add `add_job` to its processors.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from .model.context import current


class _Careful:
    """
    A logger that never raises: a line that can't be written is counted, and the count is logged once a line gets through.

    A stream that swallows what it can't write adds to `dropped` as well (see log_setup.py).
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.dropped = 0
        self.counts: Counter[str] = Counter()  # of each event, whether its level is shown or not
        self.heard: Callable[[str, dict[str, Any]], None] | None = None  # told of each, too

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        before = self.dropped
        self.counts[event] += 1
        if self.heard is not None:
            self.heard(event, facts)
        try:
            getattr(self._logger, level)(event, **facts)
        except Exception:  # a full disk, a reader that is gone, a processor of the application's
            self.dropped += 1
        if before and self.dropped == before:
            self.dropped = 0
            lines_dropped(lines=before)
            if self.dropped:  # not written either
                self.dropped += before - 1

    def debug(self, event: str, **facts: Any) -> None:
        """See structlog."""
        self._write("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        """See structlog."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """See structlog."""
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """See structlog."""
        self._write("error", event, facts)


log = _Careful(structlog.get_logger("tracked_queue"))


def add_job(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: adds task, job_id, delivery and lease to lines that a job writes."""
    job = current.get()
    if job is not None:
        for name, value in (("task", job.task), ("job_id", job.id), ("delivery", job.fence), ("lease", job.lease)):
            event.setdefault(name, value)
    return event


def add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: adds trace_id and span_id to lines that are written within a span of OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        about = trace.get_current_span().get_span_context()
        if about.is_valid:
            event.setdefault("trace_id", f"{about.trace_id:032x}")
            event.setdefault("span_id", f"{about.span_id:016x}")
    return event


def lines_dropped(*, lines: int) -> None:
    """This many log lines before this one could not be written: the disk was full, or nobody read the pipe."""
    log.warning("lines.dropped", lines=lines)


def instance_registered(
    *, lease: str, shard: int, label: str, queues: list[str], tasks: list[str], concurrency: int
) -> None:
    """An instance opened a lease (in a shard) and starts to fetch."""
    facts = {
        "lease": lease,
        "shard": shard,
        "label": label,
        "queues": queues,
        "tasks": tasks,
        "concurrency": concurrency,
    }
    log.info("instance.registered", **facts)


def instance_stopped(*, lease: str, shard: int, reason: str, left: int) -> None:
    """An instance shut down cleanly; `left` jobs could not be handed back and wait for recovery."""
    (log.info if left == 0 else log.error)("instance.stopped", lease=lease, shard=shard, reason=reason, left=left)


def instance_quieted(*, lease: str) -> None:
    """An instance was asked to fetch nothing more; what runs goes on."""
    log.info("instance.quieted", lease=lease)


def ticks_skipped(*, schedule: str, until_ms: int) -> None:
    """Ticks of a schedule with missed="skip" came while no worker ran; they are left out."""
    log.warning("ticks.skipped", schedule=schedule, until_ms=until_ms)


def code_changed(*, path: str, children: int) -> None:
    """A source file has changed (`--reload`): processes are stopped with grace, and started with the new code."""
    log.info("code.changed", path=path, children=children)


def hook_failed(*, hook: str, task: str, job_id: str, error: str) -> None:
    """One of the app's own functions raised: a retry policy (the default delay was used instead), or on_exhausted."""
    log.error("hook.failed", hook=hook, task=task, job_id=job_id, error=error)


def job_snoozed(*, task: str, job_id: str, seconds: float, reason: str) -> None:
    """A job asked for a later time; no attempt is spent."""
    log.info("job.snoozed", task=task, job_id=job_id, seconds=round(seconds, 3), reason=reason)


def lifespan_ended(*, error: str) -> None:
    """The app's lifespan raised at its end; jobs are not affected."""
    log.error("lifespan.ended", error=error)


def web_worker_started() -> None:
    """A worker runs in a web application's own process: for development."""
    log.warning("web.worker_started", note="for development: in production run workers as processes of their own")


def web_worker_ended(*, error: str) -> None:
    """The worker in a web application's process has ended before it; no jobs run there any more."""
    log.error("web.worker_ended", error=error)


def schedules_changed(*, source: str, added: int, changed: int, removed: int) -> None:
    """A source names other schedules than before."""
    log.info("schedules.changed", source=source, added=added, changed=changed, removed=removed)


def schedules_unread(*, source: str, error: str) -> None:
    """A source of schedules could not be read; what it named last goes on."""
    log.warning("schedules.unread", source=source, error=error)


def schedules_read_again(*, source: str) -> None:
    """A source of schedules answers again."""
    log.info("schedules.read_again", source=source)


def schedule_refused(*, source: str, schedule: str, problem: str) -> None:
    """A source names a schedule that can't be run; the others are."""
    log.warning("schedule.refused", source=source, schedule=schedule, problem=problem)


def dependencies_left(*, error: str) -> None:
    """A shared dependency raised as it was left at the worker's end; jobs are not affected."""
    log.error("dependencies.left", error=error)


def shutdown_phase_started(*, phase: str, lease: str, running: int, buffered: int, seconds: float) -> None:
    """A phase of a shutdown began; it takes at most `seconds`."""
    log.info("shutdown.phase_started", phase=phase, lease=lease, running=running, buffered=buffered, seconds=seconds)


def predecessor_released(*, lease: str, label: str, why: str) -> None:
    """At its start an instance released the lease of a process that is certainly gone, before it ran out."""
    log.warning("predecessor.released", lease=lease, label=label, why=why)


def label_shared(*, label: str, leases: list[str]) -> None:
    """Another live worker has this label, which is set as exclusive: each takes the other for dead when it starts."""
    log.error("label.shared", label=label, leases=leases)


def flight_written(*, why: str, path: str) -> None:
    """The last events of this process and its stacks were written to a file; `tracked-queue trace` prints it."""
    log.warning("flight.written", why=why, path=path)


def flight_unwritten(*, why: str, problem: str) -> None:
    """They could not be written; `flight_folder` says where they go."""
    log.warning("flight.unwritten", why=why, problem=problem)


def process_recycled(*, lease: str, why: str) -> None:
    """This process has reached max_jobs or max_memory: it shuts down cleanly, and its supervisor starts another."""
    log.info("process.recycled", lease=lease, why=why)


def slots_waiting(*, task: str, job_id: str, slots: int) -> None:
    """
    Every slot of this process holds a job that waits for another job's result; if those other jobs are to run here,
    they never start. Use a follow-up job instead of waiting (`chain`, `after=`), or give the awaited jobs a queue and a
    worker of their own.
    """
    log.warning("slots.waiting", task=task, job_id=job_id, slots=slots)


def queues_unnamed(*, queues: list[str], named: list[str]) -> None:
    """The worker serves queues that no task names: only jobs with `options(queue=...)` go there. `named` are the tasks' own."""
    log.warning("queues.unnamed", queues=queues, named=named)


def liveness_unknown(*, problem: str) -> None:
    """`health --live` can't report on this process, since there is nowhere to leave its file; jobs run all the same."""
    log.warning("liveness.unknown", problem=problem)


def shards_changed(*, namespace: str, was: int, now: int) -> None:
    """The number of shards of an empty namespace was changed, by starting this program with another number."""
    log.warning("shards.changed", namespace=namespace, was=was, now=now)


def limits_split(*, task: str, shard: int, home: int) -> None:
    """
    A job that was enqueued without its task's code is in a different shard from its limit or key, which is therefore
    applied there separately. Logged once per task.
    """
    log.warning("limits.split", task=task, shard=shard, home=home)


def lease_lost(*, lease: str, running: int) -> None:
    """The lease was revoked: its jobs are cancelled here, since they may run elsewhere; the instance registers anew."""
    log.warning("lease.lost", lease=lease, running=running)


def lease_doubted(*, lease: str, running: int, silent_s: float) -> None:
    """No beat got through for a while, so the lease may soon run out: running jobs are cancelled here."""
    log.warning("lease.doubted", lease=lease, running=running, silent_s=round(silent_s, 1))


def process_given_up(*, lease: str, why: str, seconds: float, place: str) -> None:
    """The watchdog ends this process at once, since its jobs could not be stopped in any other way."""
    log.error("process.given_up", lease=lease, why=why, seconds=round(seconds, 1), place=place)


def loop_blocked(*, lease: str, seconds: float, task: str, job_id: str, place: str) -> None:
    """The event loop has not turned for a while: code in it blocks. The watchdog sends the beats meanwhile."""
    log.warning("loop.blocked", lease=lease, seconds=round(seconds, 1), task=task, job_id=job_id, place=place)


def loop_unblocked(*, lease: str, seconds: float) -> None:
    """The event loop turns again."""
    log.warning("loop.unblocked", lease=lease, seconds=round(seconds, 1))


def redis_lost(*, problem: str) -> None:
    """Redis gives no answer; the instance keeps trying."""
    log.warning("redis.lost", problem=problem)


def redis_still_away(*, problem: str, seconds: float) -> None:
    """Redis has been away for a while; at most one line in ten seconds."""
    log.warning("redis.still_away", problem=problem, seconds=round(seconds, 1))


def redis_restored(*, seconds: float) -> None:
    """Redis answers again."""
    log.warning("redis.restored", seconds=round(seconds, 1))


def redis_unsafe(*, problem: str) -> None:
    """The server's settings don't keep the promise."""
    log.warning("redis.unsafe", problem=problem)


def job_failed(*, task: str, job_id: str, attempt: int, ran_ms: int, error: str, outcome: str, retry_s: float) -> None:
    """An attempt raised; `outcome` says what follows: retry, dead, failed."""
    (log.error if outcome == "dead" else log.warning)(
        f"job.{ {'retry': 'retried', 'dead': 'died', 'failed': 'failed'}[outcome] }",
        task=task, job_id=job_id, attempt=attempt, ran_ms=ran_ms, error=error, retry_s=round(retry_s, 3),
    )  # fmt: skip


def job_cancelled(*, task: str, job_id: str, ran_ms: int) -> None:
    """A running job was cancelled because somebody asked for it."""
    log.info("job.cancelled", task=task, job_id=job_id, ran_ms=ran_ms)


def job_interrupted(*, task: str, job_id: str, ran_ms: int, interruptions: int) -> None:
    """A shutdown or an outage ended a running job; it goes back to its queue, and no attempt is spent."""
    (log.warning if interruptions >= 3 else log.info)(
        "job.interrupted", task=task, job_id=job_id, ran_ms=ran_ms, interruptions=interruptions
    )


def job_ignored_cancellation(*, task: str, job_id: str, cause: str, seconds: float) -> None:
    """A job did not end after it was cancelled; its slot stays taken until it ends, and its result is ignored."""
    log.warning("job.ignored_cancellation", task=task, job_id=job_id, cause=cause, seconds=round(seconds, 1))


def job_fenced(*, job_id: str, lease: str, delivery: str) -> None:
    """A delivery ended after its job had gone to another instance: ownership was lost, its outcome was dropped."""
    log.warning("job.fenced", job_id=job_id, lease=lease, delivery=delivery)


def job_vanished(*, job_id: str, lease: str) -> None:
    """A job ended and its record is not there any more (flushed or evicted); nothing could be recorded."""
    log.warning("job.vanished", job_id=job_id, lease=lease)


def job_parked(*, task: str, job_id: str) -> None:
    """A job's task is unknown here; it waits for an instance that knows it."""
    log.warning("job.parked", task=task, job_id=job_id)


def outbox_paused(*, side: str, error: str) -> None:
    """A relay can't reach the `database` or `redis`; rows stay, and it tries again."""
    log.warning("outbox.paused", side=side, error=error)


def outbox_resumed(*, side: str) -> None:
    """A relay that was paused passes rows on again."""
    log.info("outbox.resumed", side=side)


def outbox_refused(*, row: int, job_id: str, problem: str) -> None:
    """A row of the outbox can't be enqueued; it stays, with the problem, until somebody retries or deletes it."""
    log.error("outbox.refused", row=row, job_id=job_id, problem=problem)


def job_unusable(*, task: str, job_id: str, problem: str) -> None:
    """A job's record doesn't decode or its arguments don't fit the function any more; it is dead."""
    log.error("job.unusable", task=task, job_id=job_id, problem=problem)


def note_dropped(*, task: str, job_id: str, kind: str) -> None:
    """Redis is full: a job's progress or log line was not stored."""
    log.warning("note.dropped", task=task, job_id=job_id, kind=kind)


def job_buried(*, job_id: str) -> None:
    """An id without a record was found in a queue and set aside as dead."""
    log.error("job.buried", job_id=job_id)


def job_stray(*, job_id: str, lease: str) -> None:
    """A job stood in this instance's processing list without running here; it was handed back."""
    log.warning("job.stray", job_id=job_id, lease=lease)


def job_recovered(*, job_id: str, task: str, lease: str, label: str, fate: str, recoveries: int, charges: int) -> None:
    """A job of a lost instance was moved back to its queue, or to the end that `fate` names."""
    (log.error if fate == "dead" else log.warning)(
        "job.recovered", job_id=job_id, task=task, lease=lease, label=label, fate=fate,
        recoveries=recoveries, charges=charges,
    )  # fmt: skip


def lease_recovered(*, lease: str, label: str, jobs: int) -> None:
    """All jobs of a lost instance were moved."""
    log.warning("lease.recovered", lease=lease, label=label, jobs=jobs)


def tasks_unparked(*, task: str, moved: int, remaining: int) -> None:
    """Parked jobs of a task that this instance knows went back to their queues."""
    log.info("tasks.unparked", task=task, moved=moved, remaining=remaining)


def dead_trimmed(*, jobs: int) -> None:
    """Dead jobs beyond the limits of age or number were removed."""
    log.warning("dead.trimmed", jobs=jobs)


def process_started(*, pid: int, suspects_only: bool) -> None:
    """The supervisor started a worker process; with `suspects_only` it runs only jobs under suspicion, then ends."""
    log.info("process.started", pid=pid, suspects_only=suspects_only)


def process_not_started(*, problem: str) -> None:
    """A worker process could not be started; it is tried again."""
    log.error("process.not_started", problem=problem)


def process_died(*, pid: int, code: int, ran_s: float, again_s: float) -> None:
    """A worker process ended unexpectedly; its jobs are recovered, and another one starts after `again_s`."""
    log.warning("process.died", pid=pid, code=code, ran_s=round(ran_s, 1), again_s=round(again_s, 2))


def fork_ended(*, pid: int, parent: int, error: str) -> None:
    """A fork that a job made returned from its function; the fork was ended, and the job goes on in the parent."""
    log.warning("fork.ended", pid=pid, parent=parent, error=error)


def exit_ignored(*, error: str) -> None:
    """A task or callback that a job had made raised SystemExit or KeyboardInterrupt; the process goes on."""
    log.warning("exit.ignored", error=error)


def exit_forced(*, seconds: float, place: str) -> None:
    """Exit hooks (`atexit`, a child that is waited for) did not end in time; the process ends without them."""
    log.warning("exit.forced", seconds=seconds, place=place)


def process_killed(*, pid: int, why: str) -> None:
    """The supervisor ends a process that did not end by itself."""
    log.warning("process.killed", pid=pid, why=why)


def signal_received(*, name: str, meaning: str) -> None:
    """A signal came."""
    log.info("signal.received", name=name, meaning=meaning)


def dashboard_failed(*, path: str, error: str) -> None:
    """The dashboard could not answer a request, which is a fault of its own or of a login function."""
    log.error("dashboard.failed", path=path, error=error)


def dashboard_login(*, user: str, ok: bool) -> None:
    """Somebody logged in to the dashboard, or tried to."""
    (log.info if ok else log.warning)("dashboard.login", user=user, ok=ok)


def dashboard_users_unreadable(*, problem: str, seconds: float) -> None:
    """The dashboard's users file can't be read; for so many seconds those are let in who were known before."""
    log.error("dashboard.users_unreadable", problem=problem, seconds=seconds)


def operator_acted(*, action: str, by: str, **facts: Any) -> None:
    """Somebody changed something by hand."""
    log.info("operator.acted", action=action, by=by, **facts)
