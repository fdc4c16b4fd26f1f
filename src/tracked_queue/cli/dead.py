"""`dead list`, `dead requeue`, `dead purge`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import typer

from .. import reports
from ..app import TrackedQueue
from ..errors import UsageError
from ..model.checks import check_name
from ..model.cipher import Cipher
from ..protocol import transitions
from ..protocol.states import State
from ..transport.store import Store
from ..worker import log_setup
from .common import (
    EXIT_FAILED,
    AppOption,
    JsonOption,
    NamespaceOption,
    UrlOption,
    acted,
    chosen_app,
    clean,
    dead_cli,
    fields_of,
    guarded,
    print_json,
    print_table,
    run,
    seconds,
    span,
)

TaskFilter = Annotated[str | None, typer.Option("--task", help="Only this task.")]
QueueFilter = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]
ReasonFilter = Annotated[str | None, typer.Option("--reason", help="Only with this text in the reason or error.")]
AgeFilter = Annotated[str | None, typer.Option("--older-than", help="Only dead for so long: 90s, 15m, 2h, 7d.")]
RateOption = Annotated[float | None, typer.Option("--rate", help="At most so many a second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


def _filter(task: str | None, queue: str | None, reason: str | None, older_than: str | None) -> reports.DeadFilter:
    given = {"--task": task, "--queue": queue, "--reason": reason, "--older-than": older_than}
    for option, value in given.items():
        if value == "":  # a variable of a script that is not set, and then it would match everything
            raise UsageError(f"{option}: it is empty; leave it out, or say what it should be")
    return reports.DeadFilter(
        task=task, queue=queue, reason=reason, older_than=None if older_than is None else seconds(older_than)
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
    if limit < 1:
        raise UsageError(f"--limit {limit}: it must be 1 or more")

    async def work(chosen: TrackedQueue) -> list[reports.DeadJob]:
        found: list[reports.DeadJob] = []
        for store in chosen.stores:
            of_shard = 0
            async for one in reports.read_dead(store, wanted, chosen.cipher):
                if of_shard >= limit:
                    break
                of_shard += 1
                found.append(one)
        return sorted(found, key=lambda one: one.age_s or 0.0, reverse=True)[:limit]

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


async def _each(ids: Sequence[str]) -> AsyncIterator[str]:
    for job_id in ids:
        yield job_id


async def _dead_ids(store: Store, wanted: reports.DeadFilter, cipher: Cipher) -> AsyncIterator[str]:
    async for one in reports.read_dead(store, wanted, cipher):
        yield one.id


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
    log_setup.set_up()
    filtered = wanted != reports.DeadFilter()
    if bool(ids) + filtered + everything != 1:
        raise UsageError(f"{action}: name ids, or a filter, or --all (one of them)")
    for job_id in ids or []:
        check_name("job id", job_id)
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"--rate {rate:g}: it must be a number above 0")
    make = transitions.requeue if action == "requeue" else transitions.purge

    async def work(chosen: TrackedQueue) -> tuple[int, list[str]]:
        size = transitions.MAX_RICH if rate is None else max(1, min(transitions.MAX_RICH, int(rate)))
        done = 0
        refused: list[str] = []
        batch: list[str] = []
        started, sent = time.monotonic(), 0

        async def flush(store: Store) -> None:
            nonlocal done, sent
            if batch and dry_run:
                states = await reports.read_states(store, batch)
                for job_id, state in zip(batch, states, strict=True):
                    if state is State.DEAD:
                        done += 1
                    else:
                        refused.append(f"{job_id}: {'gone' if state is None else 'not_dead'}")
            elif batch:
                if rate is not None:
                    await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
                words = await store.run(make(batch))
                sent += len(batch)
                done += words.count(transitions.DeadWord.OK)
                refused.extend(
                    f"{job_id}: {word.value}"
                    for job_id, word in zip(batch, words, strict=True)
                    if word is not transitions.DeadWord.OK
                )
            batch.clear()

        by_shard = chosen.shards.by_shard(ids or [])
        for shard, store in enumerate(chosen.stores):
            async for job_id in _each(by_shard.get(shard, [])) if ids else _dead_ids(store, wanted, chosen.cipher):
                batch.append(job_id)
                if len(batch) >= size:
                    await flush(store)
            await flush(store)
        return done, refused

    done, refused = run(chosen_app(app, redis_url, namespace), work)
    if dry_run:
        print(f"{done} dead jobs would be {action}{'d' if action.endswith('e') else 'ed'}")
        _say_refused(refused)
        return
    acted(action, jobs=done, refused=len(refused), filter={k: v for k, v in fields_of(wanted).items() if v is not None})
    print(f"{done} dead jobs {action}{'d' if action.endswith('e') else 'ed'}")
    _say_refused(refused)


def _say_refused(refused: Sequence[str]) -> None:
    for line in refused[:20]:
        print(clean(line), file=sys.stderr)
    if refused:
        raise typer.Exit(EXIT_FAILED)
