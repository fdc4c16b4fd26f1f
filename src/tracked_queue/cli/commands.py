"""The commands, each a thin layer over the app, the transitions and the reports."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import reports, transitions
from ..app import TrackedQueue
from ..errors import JobError, StoreRefusedError, UsageError
from ..settings import Settings, setting_doc, setting_names
from ..worker.liveness import default_label, read_signs
from .common import (
    EXIT_FAILED,
    AppOption,
    JsonOption,
    NamespaceOption,
    UrlOption,
    acted,
    chosen_app,
    clean,
    fail,
    guarded,
    load_app,
    print_json,
    print_table,
    run,
    seconds,
    setup_logging,
    span,
)

cli = typer.Typer(
    name="tracked_queue",
    help="An asyncio job queue on Redis that does not lose jobs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
dead_cli = typer.Typer(no_args_is_help=True, help="Dead jobs: list, requeue, purge.")
cli.add_typer(dead_cli, name="dead")


def main() -> None:
    """Entry point of `python -m tracked_queue`."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    cli(prog_name="tracked_queue")


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"tracked_queue: warning: {clean(str(message))}", file=sys.stderr)


# worker


@cli.command()
@guarded
def worker(
    app: Annotated[str, typer.Argument(help="module:app, such as shop.jobs:app.")],
    queue: Annotated[list[str] | None, typer.Option("--queue", "-q", help="In priority order; repeat it.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at the same time in one process.")] = None,
    processes: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="End when the queues are empty.")] = False,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    instance_id: Annotated[str | None, typer.Option(help="Label of this worker: the pod's name.")] = None,
    heartbeat_interval: Annotated[float | None, typer.Option(help="Seconds between idle beats.")] = None,
    heartbeat_ttl: Annotated[float | None, typer.Option(help="Seconds until a silent instance is lost.")] = None,
    recovery_interval: Annotated[float | None, typer.Option(help="Seconds between looks for lost ones.")] = None,
    auto_recovery: Annotated[bool | None, typer.Option(help="Recover lost instances' jobs by itself.")] = None,
    max_recoveries: Annotated[int | None, typer.Option(help="Charges until a job is dead.")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for running jobs after SIGTERM.")] = None,
    cancel_grace: Annotated[float | None, typer.Option(help="Seconds for a cancelled job to end.")] = None,
    stall_limit: Annotated[float | None, typer.Option(help="Seconds of a blocked loop until giving up.")] = None,
    log_format: Annotated[str, typer.Option(help="auto, console or json.")] = "auto",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    supervised: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs: a supervisor and its worker processes, until SIGTERM."""
    _one_of("log_format", log_format, ("auto", "console", "json"))
    _one_of("log_level", log_level, ("debug", "info", "warning", "error"))
    setup_logging(log_format, log_level)
    if processes < 1:
        raise UsageError(f"processes={processes}: it must be 1 or more")
    options = {
        "concurrency": concurrency,
        "redis_url": redis_url,
        "namespace": namespace,
        "instance_id": instance_id,
        "heartbeat_interval": heartbeat_interval,
        "heartbeat_ttl": heartbeat_ttl,
        "recovery_interval": recovery_interval,
        "auto_recovery": auto_recovery,
        "max_recoveries": max_recoveries,
        "grace": grace,
        "cancel_grace": cancel_grace,
        "stall_limit": stall_limit,
    }
    if supervised is not None:
        raise typer.Exit(_run_child(app, options, queue, burst, supervised))
    raise typer.Exit(_supervise(app, options, processes, burst))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r}: it must be one of {', '.join(allowed)}")


def _run_child(path: str, options: dict[str, Any], queues: list[str] | None, burst: bool, pipe_ends: str) -> int:
    from ..worker.instance import Instance
    from ..worker.supervisor import SupervisorPipe

    pipe = SupervisorPipe(pipe_ends)
    app = load_app(path)
    app.configure(**options)

    async def work() -> int:
        endpoint = await asyncio.to_thread(app.endpoint)

        instance = Instance(
            app.tasks,
            app.settings,
            endpoint,
            app.keys,
            queues=queues,
            burst=burst,
            announce=pipe.announce,
            ready=pipe.ready,
        )
        pipe.watch(lambda: instance.stop.ask("the supervisor is gone"))
        return await instance.run()

    return _run_loop(work, _exit_process)


def _exit_process(code: int) -> None:
    """
    End a worker process whose lease is over: what a job left in a thread, or a job that can't be stopped, must not
    keep it alive; the supervisor would have to kill it.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _supervise(path: str, options: dict[str, Any], processes: int, burst: bool) -> int:
    from ..worker.supervisor import Supervisor

    # The supervisor imports the app as well: a mistake in it ends everything at once, with one line, and it needs
    # the settings that the app was made with. It runs no job.
    app = load_app(path)
    app.configure(**options)

    async def work() -> int:
        from ..worker.instance import served_queues

        served_queues(app.tasks, None)
        endpoint = await asyncio.to_thread(app.endpoint)
        command = [sys.executable, "-m", "tracked_queue", *sys.argv[1:]]
        supervisor = Supervisor(command, processes, app.settings, endpoint, app.keys, burst=burst)
        try:
            return await supervisor.run()
        finally:
            await app.aclose()

    return asyncio.run(work())


def _run_loop(work: Any, then: Callable[[int], None]) -> int:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is no uvloop on Windows
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        code: int = runner.run(work())
        then(code)  # before the loop is closed, which would wait for the threads of its executor
    return code


# demo


@cli.command()
@guarded
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Default: the Python standard library's folder.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many files.")] = None,
) -> None:
    """Hash every file below FOLDER by jobs, kill a worker midway, and prove that nothing was lost."""
    from .demo import run_demo

    raise typer.Exit(run_demo(folder, limit))


# reading


@cli.command()
@guarded
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """One job: state, ledgers, times, error."""

    async def work(chosen: TrackedQueue) -> Any:
        return await chosen.job(job_id).info()

    info = run(chosen_app(app, redis_url, namespace), work)
    if as_json:
        print_json(info)
        return
    rows = [
        ("id", info.id),
        ("task", info.task),
        ("queue", info.queue),
        ("state", info.state + (" (cancellation asked for)" if info.cancel_requested else "")),
        ("attempts", info.attempts),
        ("interruptions", info.interruptions),
        ("recoveries", f"{info.recoveries} (charges {info.charges})"),
        ("instance", info.lease),
        ("queued", info.queued_at),
        ("due", info.due_at),
        ("fetched", info.fetched_at),
        ("finished", info.finished_at),
        ("reason", info.reason),
        ("error", f"{info.error.type}: {info.error.message}" if info.error and info.error.type else None),
    ]
    for name, value in rows:
        if value is not None:
            print(f"{name:<14}{clean(str(value))}")
    if info.error and info.error.traceback:
        print()
        for line in info.error.traceback.splitlines():
            print(f"  {clean(line)}")


@cli.command()
@guarded
def queues(
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queues: length, age of the oldest job, rates, pauses, and who serves them."""

    async def work(chosen: TrackedQueue) -> reports.Overview:
        return await reports.read_overview(chosen.store)

    overview = run(chosen_app(app, redis_url, namespace), work)
    if as_json:
        print_json(overview)
        return
    print_table(
        "Queues",
        ("queue", "jobs", "oldest", "in/min", "done/min", "failed/min", "instances", "notes"),
        [
            (
                item.queue,
                item.length,
                span(item.oldest_s),
                f"{item.enqueued_per_min:.1f}",
                f"{item.succeeded_per_min:.1f}",
                f"{item.failed_per_min:.1f}",
                item.instances,
                ", ".join(
                    note
                    for note, on in (
                        ("paused", item.paused),
                        ("NO INSTANCE SERVES IT", item.unserved),
                        (f"{item.suspects} suspects", item.suspects > 0),
                    )
                    if on
                ),
            )
            for item in overview.queues
        ],
        "no queues yet",
    )
    for item in overview.parked:
        why = "the task is paused" if item.paused else "no live instance knows the task yet"
        print(f"parked: {item.length} jobs of task {clean(item.task)} ({why})")
    for name in overview.paused_tasks:
        print(f"paused task: {clean(name)}")
    print(f"scheduled: {overview.scheduled}   dead: {overview.dead}")
    for job_id in overview.interrupted:
        print(f"interrupted three times or more: {clean(job_id)}")


@cli.command()
@guarded
def instances(
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    jobs: Annotated[bool, typer.Option("--jobs", help="Also the jobs that each one owns.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Instances: who they are, what they own, when they were last seen; lost ones with orphans too."""

    async def work(chosen: TrackedQueue) -> Any:
        found = await reports.read_instances(chosen.store)
        owned = [await reports.read_active(chosen.store, item.lease) if jobs else [] for item in found]
        return list(zip(found, owned, strict=True))

    found = run(chosen_app(app, redis_url, namespace), work)
    if as_json:
        print_json(
            [{**_fields(item), "alive": item.alive, **({"jobs": owned} if jobs else {})} for item, owned in found]
        )
        return
    print_table(
        "Instances",
        ("lease", "host", "pid", "version", "queues", "slots", "jobs", "seen", "state"),
        [
            (
                item.lease,
                item.host,
                item.pid,
                item.version,
                ",".join(item.queues),
                item.concurrency,
                item.owned,
                span(item.seen_s),
                ("quiet" if item.quiet else "alive") if item.alive else ("revoked" if item.revoked else "RUN OUT"),
            )
            for item, _ in found
        ],
        "no instances",
    )
    for item, owned in found:
        for one in owned:
            waits = " (waits for a slot)" if one.buffered else ""
            orphan = "" if item.alive else " ORPHAN"
            print(f"{clean(one.id)}  {clean(one.task)}  on {clean(item.lease)} for {span(one.age_s)}{waits}{orphan}")


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


@cli.command()
@guarded
def config(
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every setting, its value and where it came from; passwords are masked."""
    settings = chosen_app(app, redis_url, namespace).settings
    rows = [
        {"setting": name, "value": settings.shown(name), "source": settings.sources[name], "means": setting_doc(name)}
        for name in setting_names()
    ]
    if as_json:
        print_json(rows)
        return
    print_table("Settings", ("setting", "value", "source", "means"), [tuple(row.values()) for row in rows], "")


# changing


@cli.command()
@guarded
def enqueue(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Option(help="Positional arguments, a JSON array.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Named arguments, a JSON object.")] = "{}",
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    id: Annotated[str | None, typer.Option(help="The job's id.")] = None,
    delay: Annotated[str | None, typer.Option(help="90, 90s, 15m, 2h, 7d.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait so long for the result and print it.")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store one job; prints its id."""
    setup_logging()
    positional, named = _json("args", args, list), _json("kwargs", kwargs, dict)
    delay_s = seconds(delay) if delay else None
    wait_s = seconds(wait) if wait else None

    async def work(chosen: TrackedQueue) -> tuple[Any, Any]:
        sender = chosen.options(id=id, queue=queue, delay=delay_s)
        stored = await sender.enqueue(task, *positional, **named)
        acted("enqueue", job_id=stored.id, task=task, created=stored.created)
        return stored, await stored.result(timeout=wait_s) if wait_s is not None else None

    try:
        stored, result = run(chosen_app(app, redis_url, namespace), work)
    except TimeoutError as error:
        raise fail(str(error), EXIT_FAILED) from None
    if as_json:
        print_json({"id": stored.id, "created": stored.created, **({"result": result} if wait else {})})
    else:
        print(stored.id if stored.created else f"{stored.id} (exists already; nothing was added)")
        if wait:
            print_json(result)


def _json(name: str, text: str, kind: type) -> Any:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--{name}: it is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise UsageError(f"--{name}: it must be a JSON {'array' if kind is list else 'object'}")
    return value


@cli.command()
@guarded
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Cancel jobs: at once if they have not started, else within a second."""
    setup_logging()

    async def work(chosen: TrackedQueue) -> list[transitions.CancelWord]:
        keep = max(chosen.settings.result_ttl, chosen.settings.resend_window)
        words: list[transitions.CancelWord] = []
        for at in range(0, len(ids), transitions.MAX_BATCH):
            answers = await chosen.store.run(transitions.cancel(ids[at : at + transitions.MAX_BATCH], keep))
            words += answers
        return words

    words = run(chosen_app(app, redis_url, namespace), work)
    said = {
        "cancelled": "cancelled",
        "requested": "its instance was asked to cancel it",
        "ended": "had ended already",
        "gone": "no such job",
    }
    for job_id, word in zip(ids, words, strict=True):
        acted("cancel", job_id=job_id, answer=word.value)
        print(f"{clean(job_id)}: {said[word.value]}")
    if any(word in (transitions.CancelWord.ENDED, transitions.CancelWord.GONE) for word in words):
        raise typer.Exit(EXIT_FAILED)


def _what(queue: str | None, task: str | None) -> str:
    if (queue is None) == (task is None):
        raise UsageError("name one of --queue and --task")
    return f"queue:{queue}" if queue is not None else f"task:{task}"


@cli.command()
@guarded
def pause(
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    task: Annotated[str | None, typer.Option("--task")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Stop the fetching of a queue's or a task's jobs over the whole fleet; what runs goes on."""
    _pause_or_resume("pause", _what(queue, task), chosen_app(app, redis_url, namespace))


@cli.command()
@guarded
def resume(
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    task: Annotated[str | None, typer.Option("--task")] = None,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Undo a pause."""
    _pause_or_resume("resume", _what(queue, task), chosen_app(app, redis_url, namespace))


def _pause_or_resume(action: str, what: str, app: TrackedQueue) -> None:
    setup_logging()

    async def work(chosen: TrackedQueue) -> bool:
        call = transitions.pause(what) if action == "pause" else transitions.resume(what)
        changed = await chosen.store.run(call)
        while action == "resume" and what.startswith("task:"):
            moved, remaining = await chosen.store.run(transitions.unpark(what[5:], []))
            if not moved or not remaining:
                break
        return changed

    changed = run(app, work)
    acted(action, what=what, changed=changed)
    print(f"{clean(what)}: {action}d" if changed else f"{clean(what)}: was {'' if action == 'pause' else 'not '}paused")


@cli.command()
@guarded
def recover(
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recover the jobs of lost instances now; live leases, and a hold after an outage, are respected."""
    setup_logging(level="error")

    async def work(chosen: TrackedQueue) -> list[transitions.Recovered]:
        return await chosen.recover()

    moved = run(chosen_app(app, redis_url, namespace), work)
    setup_logging()
    acted("recover", jobs=len(moved))
    if as_json:
        print_json(moved)
        return
    for one in moved:
        print(f"{clean(one.id)}  {clean(one.task)}: {one.fate.value}")
    print(f"{len(moved)} jobs moved")


@cli.command()
@guarded
def quiet(
    instance: Annotated[str, typer.Argument(help="A lease or a label, as `instances` shows it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it fetch again.")] = False,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Tell an instance to fetch no more jobs; what runs there goes on."""
    setup_logging()

    async def work(chosen: TrackedQueue) -> list[str]:
        found = await reports.read_instances(chosen.store)
        leases = [item.lease for item in found if instance in (item.lease, item.label) and item.alive]
        return [lease for lease in leases if await chosen.store.run(transitions.quiet(lease, not undo))]

    leases = run(chosen_app(app, redis_url, namespace), work)
    if not leases:
        raise fail(f"no live instance has the lease or label {instance!r}; see `instances`", EXIT_FAILED)
    for lease in leases:
        acted("quiet", lease=lease, on=not undo)
        print(f"{clean(lease)}: {'fetches again' if undo else 'fetches no more jobs'}")


# dead

TaskFilter = Annotated[str | None, typer.Option("--task", help="Only this task.")]
QueueFilter = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]
ReasonFilter = Annotated[str | None, typer.Option("--reason", help="Only with this text in the reason or error.")]
AgeFilter = Annotated[str | None, typer.Option("--older-than", help="Only dead for so long: 90s, 15m, 2h, 7d.")]
RateOption = Annotated[float | None, typer.Option("--rate", help="At most so many a second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


def _filter(task: str | None, queue: str | None, reason: str | None, older_than: str | None) -> reports.DeadFilter:
    return reports.DeadFilter(
        task=task, queue=queue, reason=reason, older_than=seconds(older_than) if older_than else None
    )


@dead_cli.command("list")
@guarded
def dead_list(
    task: TaskFilter = None,
    queue: QueueFilter = None,
    reason: ReasonFilter = None,
    older_than: AgeFilter = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.")] = 100,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Dead jobs, the oldest first."""
    wanted = _filter(task, queue, reason, older_than)

    async def work(chosen: TrackedQueue) -> list[reports.DeadJob]:
        found: list[reports.DeadJob] = []
        async for one in reports.read_dead(chosen.store, wanted):
            if len(found) >= limit:
                break
            found.append(one)
        return found

    found = run(chosen_app(app, redis_url, namespace), work)
    if as_json:
        print_json(found)
        return
    print_table(
        "Dead jobs",
        ("id", "task", "queue", "dead for", "attempts", "charges", "reason"),
        [
            (one.id, one.task, one.queue, span(one.age_s), one.attempts, one.charges, one.reason or one.error)
            for one in found
        ],
        "no dead jobs match",
    )


@dead_cli.command("requeue")
@guarded
def dead_requeue(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    reason: ReasonFilter = None,
    older_than: AgeFilter = None,
    everything: Annotated[bool, typer.Option("--all", help="Without a filter: all of them.")] = False,
    rate: RateOption = None,
    dry_run: DryRun = False,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Queue dead jobs again."""
    _change_dead(
        "requeue", ids, _filter(task, queue, reason, older_than), everything, rate, dry_run, app, redis_url, namespace
    )


@dead_cli.command("purge")
@guarded
def dead_purge(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    reason: ReasonFilter = None,
    older_than: AgeFilter = None,
    everything: Annotated[bool, typer.Option("--all", help="Without a filter: all of them.")] = False,
    rate: RateOption = None,
    dry_run: DryRun = False,
    app: AppOption = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Remove dead jobs for good."""
    _change_dead(
        "purge", ids, _filter(task, queue, reason, older_than), everything, rate, dry_run, app, redis_url, namespace
    )


def _change_dead(
    action: str,
    ids: list[str] | None,
    wanted: reports.DeadFilter,
    everything: bool,
    rate: float | None,
    dry_run: bool,
    app: str | None,
    redis_url: str | None,
    namespace: str | None,
) -> None:
    setup_logging()
    filtered = wanted != reports.DeadFilter()
    if bool(ids) + filtered + everything != 1:
        raise UsageError(f"{action}: name ids, or a filter, or --all (one of them)")
    if rate is not None and not rate > 0:
        raise UsageError(f"--rate {rate:g}: it must be above 0")
    make = transitions.requeue if action == "requeue" else transitions.purge

    async def work(chosen: TrackedQueue) -> tuple[int, list[str]]:
        size = transitions.MAX_BATCH if rate is None else max(1, min(transitions.MAX_BATCH, int(rate)))
        done = 0
        refused: list[str] = []
        batch: list[str] = []
        started, sent = time.monotonic(), 0

        async def flush() -> None:
            nonlocal done, sent
            if batch and dry_run:
                done += len(batch)
            elif batch:
                if rate is not None:
                    await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
                words = await chosen.store.run(make(batch))
                sent += len(batch)
                done += words.count(transitions.DeadWord.OK)
                refused.extend(
                    f"{job_id}: {word.value}"
                    for job_id, word in zip(batch, words, strict=True)
                    if word is not transitions.DeadWord.OK
                )
            batch.clear()

        if ids:
            for job_id in ids:
                batch.append(job_id)
                if len(batch) >= size:
                    await flush()
        else:
            async for one in reports.read_dead(chosen.store, wanted):
                batch.append(one.id)
                if len(batch) >= size:
                    await flush()
        await flush()
        return done, refused

    done, refused = run(chosen_app(app, redis_url, namespace), work)
    if dry_run:
        print(f"{done} dead jobs would be {action}{'d' if action.endswith('e') else 'ed'}")
        return
    acted(action, jobs=done, refused=len(refused), filter={k: v for k, v in _fields(wanted).items() if v is not None})
    for line in refused[:20]:
        print(clean(line), file=sys.stderr)
    print(f"{done} dead jobs {action}{'d' if action.endswith('e') else 'ed'}")
    if refused:
        raise typer.Exit(EXIT_FAILED)


# health

READY_LIMIT_S = 4.0


@cli.command()
@guarded
def health(
    live: Annotated[bool, typer.Option("--live", help="This pod's event loop turns; asks no Redis.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Redis answers and this pod's leases are held.")] = False,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="A queue, with --max-age.")] = None,
    max_age: Annotated[str | None, typer.Option("--max-age", help="Fail if its oldest job is older.")] = None,
    instance_id: Annotated[str | None, typer.Option(help="The worker's label, as it was started with.")] = None,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Probes for Kubernetes and alerts; none imports the application. Exit 0: well, 1: not, 2: wrong use."""
    if live + ready + (queue is not None) != 1:
        raise UsageError("name one of --live, --ready, and --queue with --max-age")
    app = TrackedQueue()
    app.configure(redis_url=redis_url, namespace=namespace, instance_id=instance_id)
    settings = app.settings
    if queue is not None:
        if max_age is None:
            raise UsageError("--queue needs --max-age")
        _health_queue(app, queue, seconds(max_age))
    else:
        _health_instance(app, settings, ready)


def _health_queue(app: TrackedQueue, queue: str, limit: float) -> None:
    async def work(chosen: TrackedQueue) -> float | None:
        async with asyncio.timeout(READY_LIMIT_S):
            return await reports.queue_age(chosen.store, queue)

    try:
        age = run(app, work)
    except TimeoutError:
        raise fail("Redis gave no answer in time", EXIT_FAILED) from None
    if age is not None and age > limit:
        raise fail(f"queue {queue}: its oldest job has waited {span(age)}, more than {span(limit)}", EXIT_FAILED)
    print(f"queue {clean(queue)}: " + ("empty" if age is None else f"oldest job {span(age)}"))


def _health_instance(app: TrackedQueue, settings: Settings, ready: bool) -> None:
    label = settings.instance_id or default_label()
    signs = read_signs(settings.namespace, label)
    if not signs:
        raise fail(f"no worker process with the label {label} runs on this machine", EXIT_FAILED)
    for sign in signs:
        if not sign.live:
            raise fail(f"process {sign.pid}: its event loop has not turned for {span(sign.silent_s)}", EXIT_FAILED)
    if not ready:
        print(f"live: {len(signs)} process(es)")
        return

    async def work(chosen: TrackedQueue) -> list[str]:
        async with asyncio.timeout(READY_LIMIT_S):
            (role,) = await chosen.store.read(("ROLE",))
            if role[0] != b"master":
                return [f"Redis is a {role[0].decode()}, not the primary"]
            problems = []
            for sign in signs:
                left = await reports.lease_deadline(chosen.store, sign.lease)
                if left is None or left <= 0:
                    problems.append(f"process {sign.pid}: its lease {sign.lease} is not held")
            return problems

    try:
        problems = run(app, work)
    except (TimeoutError, StoreRefusedError, JobError) as error:
        raise fail(str(error) or "Redis gave no answer in time", EXIT_FAILED) from None
    if problems:
        raise fail("; ".join(problems), EXIT_FAILED)
    print(f"ready: {len(signs)} process(es)")
