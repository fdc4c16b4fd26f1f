"""`job`, `queues`, `instances`, `audit`, `wait`, `config`: the commands that only read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..app import TrackedQueue
from ..errors import JobFailedError, UsageError
from ..model.masking import masked_info, names_of
from ..operator.explanation import seconds as seconds_text
from ..protocol.events import FIRST_EVENTS
from ..settings import setting_doc, setting_names
from ..transport.endpoint import Endpoint
from ..worker.exits import FAILED_EXIT
from .common import (
    JsonOption,
    Where,
    clean,
    cli,
    fail,
    fields_of,
    guarded,
    print_json,
    print_table,
    run,
    seconds,
    span,
)


@cli.command()
@guarded
def job(
    *,
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """One job: state, ledgers, times, error, arguments without secrets; with --app positional ones are known by name."""

    async def work(chosen: TrackedQueue) -> Any:
        info = await chosen.job(job_id).info()
        task = chosen.tasks.get(info.task)
        names = names_of(chosen.settings.masked_names)
        return masked_info(info, names, () if task is None else task.signature.positional)

    info = run(where.app, work)
    if as_json:
        print_json(info)
        return
    rows = [
        ("id", info.id),
        ("task", info.task),
        ("queue", info.queue),
        ("state", info.state + (" (cancellation requested)" if info.cancel_requested else "")),
        ("attempts", info.attempts),
        ("interruptions", info.interruptions),
        ("recoveries", f"{info.recoveries} (charges {info.charges})"),
        ("instance", info.lease),
        ("queued", info.queued_at),
        ("due", info.due_at),
        ("fetched", info.fetched_at),
        ("started", info.started_at),
        ("finished", info.finished_at),
        ("reason", info.reason),
        ("args", ", ".join(map(repr, info.args)) if info.args else None),
        ("kwargs", ", ".join(f"{name}={value!r}" for name, value in info.kwargs.items()) if info.kwargs else None),
        ("headers", ", ".join(info.headers) if info.headers else None),
        ("unique key", info.unique),
        ("limits", ", ".join(info.limits) or None),
        ("comes after", ", ".join(info.after) or None),
        ("result", repr(info.result) if info.state == "succeeded" and not info.sealed else None),
        ("payload", "encrypted, and no key here opens it" if info.sealed else None),
        ("error", f"{info.error.type}: {info.error.message}" if info.error and info.error.type else None),
    ]
    for name, value in rows:
        if value is not None:
            print(f"{name:<14}{clean(str(value))}")
    for at, event in enumerate(info.history):
        by = f" on {event.lease}" if event.lease else ""
        when = event.at.strftime("%Y-%m-%d %H:%M:%S") if event.at else "-"
        print(f"{'' if at else 'history':<14}{when}  {clean(event.kind)}{clean(by)}  {clean(event.detail)}".rstrip())
        if info.history_left_out and at + 1 == FIRST_EVENTS:
            print(f"{'':<14}... {info.history_left_out} more ...")
    if info.error and info.error.traceback:
        print()
        for line in info.error.traceback.splitlines():
            print(f"  {clean(line)}")


@cli.command()
@guarded
def tasks(
    *,
    minutes: Annotated[int, typer.Option(help="Of how many minutes the runs are; more than 120: whole hours.")] = 60,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Tasks: how many instances know them, how often they ran, and how long that took."""
    if minutes < 1:
        raise UsageError(f"--minutes {minutes}: it must be 1 or more")
    found = run(where.app, lambda app: app.operator.tasks(minutes))
    if as_json:
        print_json(found)
        return
    print_table(
        "Tasks",
        ("task", "instances", "runs", "p50", "p95", "p99", "parked", "notes"),
        [
            (
                one.task,
                one.instances,
                one.runs.total,
                *(
                    None if (value := one.runs.quantile(part)) is None else seconds_text(value)
                    for part in (0.5, 0.95, 0.99)
                ),
                one.parked or None,
                ", ".join(
                    note for note, on in (("paused", one.paused), ("NO INSTANCE KNOWS IT", not one.instances)) if on
                ),
            )
            for one in found
        ],
        "no tasks yet",
    )


@cli.command()
@guarded
def audit(
    *,
    limit: Annotated[int, typer.Option(help="At most this many rows.")] = 50,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Who did what, and which instances were lost: operators' acts and recoveries, the newest first."""
    if limit < 1:
        raise UsageError(f"--limit {limit}: it must be 1 or more")

    async def work(app: TrackedQueue) -> tuple[Any, Any]:
        return await app.operator.acts(limit), await app.operator.recoveries(limit)

    acts, recoveries = run(where.app, work)
    if as_json:
        print_json({"acts": acts, "recoveries": recoveries})
        return
    rows = [
        (one.at, one.by, one.action, ", ".join(f"{name}={value}" for name, value in one.facts.items())) for one in acts
    ]
    rows += [
        (
            one.at,
            "recovery",
            f"recovered ({one.cause})",
            f"{one.jobs} jobs of {one.label or one.lease}" + (f", {one.dead} dead" if one.dead else ""),
        )
        for one in recoveries
    ]
    rows.sort(key=lambda row: row[0].timestamp() if row[0] else 0.0, reverse=True)
    print_table(
        "Audit",
        ("when (UTC)", "by", "what", "facts"),
        [(at.strftime("%Y-%m-%d %H:%M:%S") if at else None, *rest) for at, *rest in rows[:limit]],
        "nothing is on record",
    )


@cli.command()
@guarded
def wait(
    *,
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    timeout: Annotated[str | None, typer.Option(help="Give up after this: 90s, 15m, 2h. Default: never.")] = None,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Wait for a job's end, and print its result. Exit 0: it succeeded, 1: it did not, or has not ended in time."""
    limit_s = None if timeout is None else seconds(timeout)
    try:
        result = run(where.app, lambda app: app.job(job_id).result(timeout=limit_s))
    except TimeoutError as error:
        raise fail(str(error) or "it has not ended in time", FAILED_EXIT) from None
    except JobFailedError as error:
        if as_json:
            print_json({"id": job_id, "state": error.state, "reason": error.reason})
        raise fail(f"it is {error.state}: {error.reason}", FAILED_EXIT) from None
    print_json({"id": job_id, "state": "succeeded", "result": result} if as_json else result)


@cli.command()
@guarded
def limits(
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Limits: how many jobs they allow and have, and what waits; of those with a key only the ones that are waited for."""
    found = run(where.app, lambda chosen: chosen.operator.limits())
    if as_json:
        print_json(found)
        return
    print_table(
        "Limits",
        ("limit", "key", "allows", "in use", "lanes waiting", "for"),
        [
            (
                item.limit,
                item.key or None,
                f"{item.most} in {seconds_text(item.per_s)}" if item.per_s else f"{item.most} at a time",
                item.in_use,
                item.lanes or None,
                None if item.waits_s is None else span(item.waits_s),
            )
            for item in found
        ],
        "no limits",
    )


@cli.command()
@guarded
def schedules(
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Schedules: when they run, their last tick, and whether an instance still runs them."""
    found = run(where.app, lambda chosen: chosen.operator.schedules())
    if as_json:
        print_json(found)
        return
    print_table(
        "Schedules",
        ("schedule", "rule", "task", "queue", "last tick", "notes"),
        [
            (
                item.name,
                item.rule,
                item.task,
                item.queue,
                item.last_tick.strftime("%Y-%m-%d %H:%M:%S UTC") if item.last_tick else None,
                ", ".join(
                    note
                    for note, on in (
                        ("paused", item.paused),
                        (f"no instance has run it for {span(item.seen_s)}", item.silent),
                    )
                    if on
                ),
            )
            for item in found
        ],
        "no schedules",
    )


@cli.command()
@guarded
def queues(
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Queues: length, age of the oldest job, rates, pauses, and who serves them."""

    overview = run(where.app, lambda chosen: chosen.operator.queues())
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
                        (f"{item.limited} in lanes (limits, turns)", item.limited > 0),
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
    *,
    where: Where,
    jobs: Annotated[bool, typer.Option("--jobs", help="Also the jobs that each one owns.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Instances: who they are, what they own, when they were last seen; lost ones with orphans too."""

    async def work(chosen: TrackedQueue) -> Any:
        operator = chosen.operator
        return [(item, await operator.active(item) if jobs else []) for item in await operator.instances()]

    found = run(where.app, work)
    if as_json:
        print_json(
            [{**fields_of(item), "alive": item.alive, **({"jobs": owned} if jobs else {})} for item, owned in found]
        )
        return
    several = any(item.shard for item, _ in found)
    print_table(
        "Instances",
        (
            "lease",
            *(("shard",) if several else ()),
            "host",
            "pid",
            "version",
            "queues",
            "slots",
            "jobs",
            "seen",
            "state",
        ),
        [
            (
                item.lease,
                *((item.shard,) if several else ()),
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


@cli.command()
@guarded
def config(
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """Every setting, its value and where it came from; passwords are masked."""
    settings = where.app.settings
    if not settings.redis_url.startswith("embedded:"):
        Endpoint(settings)  # what the URL says of the database, of hosts and of TLS can be used
    rows = [
        {"setting": name, "value": settings.shown(name), "source": settings.sources[name], "means": setting_doc(name)}
        for name in setting_names()
    ]
    if as_json:
        print_json(rows)
        return
    print_table("Settings", ("setting", "value", "source", "means"), [tuple(row.values()) for row in rows], "")
