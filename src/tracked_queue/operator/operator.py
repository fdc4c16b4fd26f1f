"""What operators see and do, from Python: `app.operator`. The command line parses and prints; this does the work."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from .. import log
from ..errors import StoreRefusedError, StoreUnavailableError, UsageError, did_you_mean
from ..model.checks import check_flag, check_list, check_name, check_text, check_whole, to_seconds
from ..model.job import Job
from ..model.task import Task
from ..producer.connections import Connections
from ..producer.producer import Producer
from ..protocol.states import ENDED, State
from ..protocol.times import RUN_EDGES
from ..protocol.transitions import (
    MAX_RICH,
    CancelWord,
    DeadWord,
    Recovered,
    act,
    cancel,
    forget,
    pause,
    purge,
    quiet,
    requeue,
    resume,
    unpark,
)
from ..reports.dead import DeadFilter, DeadJob, read_dead
from ..reports.instances import ActiveJob, InstanceReport, lease_deadline, read_active, read_instances
from ..reports.jobs import drop_ended, read_open_jobs, read_states
from ..reports.listing import LISTED_STATES, JobRow, ListedState, list_jobs
from ..reports.memory import Act, RecoveryReport, read_acts, read_recoveries
from ..reports.numbers import FleetNumbers, count_due, read_numbers
from ..reports.queues import Overview, queue_age, queue_known, read_overview
from ..reports.schedules import ScheduleReport, read_schedules
from ..reports.times import Histogram, Times, read_times
from ..transport.store import Store
from ..worker.liveness import user_id
from ..worker.recovery import recover_once
from .doctor import Finding, examine
from .explain import explain_instance, explain_job, explain_limit, explain_queue, explain_task, problems_of
from .explanation import Explanation
from .scale import Scale, scale_of

# How many ids an act names; its number of jobs counts all of them.
MOST_NAMED = 20
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadOutcome:
    """What became of dead jobs: how many were requeued or purged (or would be), and why others were not, by id."""

    done: int = 0
    refused: Mapping[str, DeadWord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """A task: how many live instances know it, its runs lately, and how many of its jobs are parked."""

    task: str
    instances: int
    runs: Histogram
    parked: int
    paused: bool


class Operator:
    """
    Everything that the command line can do, over all shards of the app's namespace.

    Methods that change something, and `schedules`, first make sure that the namespace has the number of shards in the settings.
    Every method raises StoreUnavailableError when Redis does not answer, and StoreRefusedError when it refuses.
    Source: docs/how-to/operate.md.
    """

    def __init__(self, connections: Connections, producer: Producer, by: str = "") -> None:
        self._connections, self._producer, self._by = connections, producer, by

    @property
    def by(self) -> str:
        """Who is said to act: the operating system's user, as user@host, unless `acting_for` names another."""
        if not self._by:
            try:
                user = getpass.getuser()
            except (OSError, KeyError):  # a container without a passwd entry
                user = str(user_id())
            self._by = f"{user}@{socket.gethostname()}"
        return self._by

    def acting_for(self, who: str) -> Operator:
        """The same, for somebody else: a person who is logged in somewhere, a program. Logs, histories and `acts` name them."""
        return Operator(self._connections, self._producer, check_text("who", who))

    async def note_act(self, action: str, **facts: Any) -> None:
        """
        Log an act, and keep it among the last 500 (see `acts`). Methods that change something do this themselves.

        Args:
            facts: What was done to what, with which result; plain data.
        """
        log.operator_acted(action=action, by=self.by, **facts)
        await self._connections.stores[0].run(act(self.by, action, json.dumps(facts, default=str)))

    async def _note(self, action: str, **facts: Any) -> None:
        """`note_act` for what is done already: that it could not be kept must not look as if the act had failed."""
        with contextlib.suppress(StoreUnavailableError, StoreRefusedError):
            await self.note_act(action, **facts)

    # What there is

    async def queues(self) -> Overview:
        """Queues with lengths, ages, rates and pauses; parked tasks; how many jobs are scheduled and dead."""
        return await read_overview(self._connections.stores)

    async def queue_age(self, queue: str) -> float | None:
        """Seconds that the oldest job of a queue has waited; None for an empty queue."""
        check_name("queue", queue)
        ages = [await queue_age(store, queue) for store in self._connections.stores]
        return max((age for age in ages if age is not None), default=None)

    async def knows(self, *, queue: str | None = None, task: str | None = None) -> bool:
        """Whether an instance serves this queue or has this task, or a job was ever in the queue, or waits for the task."""
        kind, name = _one_of(queue=queue, task=task)
        for store in self._connections.stores:
            if kind == "queue" and await queue_known(store, name):
                return True
            if kind == "task" and (await store.read(("SISMEMBER", store.keys.parked, name)))[0]:
                return True
        instances = await self.instances()
        return any(name in (item.queues if kind == "queue" else item.task_names) for item in instances)

    async def instances(self) -> list[InstanceReport]:
        """All instances, shard by shard; those that were lost and still own jobs included."""
        return [
            replace(item, shard=shard)
            for shard, store in enumerate(self._connections.stores)
            for item in await read_instances(store)
        ]

    async def active(self, instance: InstanceReport, limit: int = 250) -> list[ActiveJob]:
        """The jobs that an instance owns, the oldest first."""
        if not isinstance(instance, InstanceReport):
            raise UsageError(f"active: {instance!r} is a {type(instance).__qualname__}; give one of instances()")
        check_whole("limit", limit)
        return await read_active(self._connections.stores[instance.shard], instance.lease, limit)

    async def jobs(
        self, state: ListedState, *, queue: str | None = None, task: str | None = None, limit: int = 100
    ) -> list[JobRow]:
        """
        Jobs of a state, at most `limit`: queued ones in the order in which they are taken, ended and dead ones the newest
        first. At most 10,000 records a shard are read for it; of ended jobs only the last 500 of each queue can be listed,
        and of a busy queue's successes a sample.
        """
        if state not in LISTED_STATES:
            raise UsageError(f"jobs: state={state!r}; {did_you_mean(str(state), LISTED_STATES)}")
        for kind, name in _given(queue=queue, task=task).items():
            check_name(kind, name)
        check_whole("limit", limit)
        found: list[JobRow] = []
        for store in self._connections.stores:
            found += (await list_jobs(store, state, queue=queue, task=task, limit=limit))[0]
        if len(self._connections.stores) > 1:  # each shard's are in order
            found.sort(key=lambda row: row.at or _EPOCH, reverse=state in ENDED)
        return found[:limit]

    async def numbers(self) -> FleetNumbers:
        """The fleet as numbers, which metrics are made of."""
        return await read_numbers(self._connections.stores)

    async def scale(
        self, queues: Sequence[str], *, horizon: float = 60.0, target_wait: float = 60.0, slots: int = 0
    ) -> Scale:
        """
        How much work there is for these queues, and how many workers it wants: for an autoscaler.

        Args:
            horizon: Jobs that are due within these seconds count as work.
            target_wait: Within these seconds the backlog should be gone.
            slots: Places of one worker; 0: what those that are there have on average.
        """
        for queue in check_list("queues", queues, "queues"):
            check_name("queue", queue)
        if not queues:
            raise UsageError("scale: name at least one queue")
        for name, value in (("horizon", horizon), ("target_wait", target_wait)):
            to_seconds(name, value)
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 0:
            raise UsageError(f"slots={slots!r}: it must be a whole number from 0")
        counts = [await count_due(store, horizon, queues) for store in self._connections.stores]
        return scale_of(await self.numbers(), queues, sum(counts), max(target_wait, 0.001), slots)

    async def times(self, minutes: int = 60) -> Times:
        """How long jobs waited, by queue, and ran, by task, in the last minutes (more than 120: by whole hours, up to 72)."""
        check_whole("minutes", minutes)
        return await read_times(self._connections.stores, minutes)

    async def tasks(self, minutes: int = 60) -> list[TaskReport]:
        """Each task that an instance knows, that ran lately, or that has parked jobs: its runs and how long they took."""
        times, overview, instances = await self.times(minutes), await self.queues(), await self.instances()
        known = Counter(name for item in instances if item.alive for name in item.task_names)
        parked = {one.task: one.length for one in overview.parked}
        names = sorted({*known, *parked, *times.runs, *overview.paused_tasks})
        empty = Histogram(RUN_EDGES, (0,) * (len(RUN_EDGES) + 1))
        return [
            TaskReport(
                task=name,
                instances=known[name],
                runs=times.runs.get(name, empty),
                parked=parked.get(name, 0),
                paused=name in overview.paused_tasks,
            )
            for name in names
        ]

    async def schedules(self) -> list[ScheduleReport]:
        """The schedules that the fleet runs, with their last ticks."""
        found = [one for store in await self._connections.agreed() for one in await read_schedules(store)]
        return sorted(found, key=lambda item: item.name)

    async def dead(self, which: DeadFilter | None = None, *, limit: int = 100) -> list[DeadJob]:
        """Dead jobs that match, the oldest first, at most `limit`."""
        wanted = _filter(which)
        check_whole("limit", limit)
        found: list[DeadJob] = []
        for store in self._connections.stores:
            of_shard = 0
            async for one in read_dead(store, wanted, self._connections.cipher):
                if of_shard >= limit:
                    break
                of_shard += 1
                found.append(one)
        return sorted(found, key=lambda one: one.age_s, reverse=True)[:limit]

    async def examine(self) -> list[Finding]:
        """What `doctor` finds: whether server and settings keep the promise."""
        return await examine(self._connections.stores, self._connections.settings)

    async def unheld(self, processes: Mapping[int, Mapping[int, str]]) -> list[str]:
        """
        What keeps processes from working: a server that is not the primary, or leases that are not held; empty if all is well.

        Args:
            processes: The leases of each by shard, by its pid.
        """
        stores, problems = self._connections.stores, []
        for shard, store in enumerate(stores):
            (role,) = await store.read(("ROLE",))
            if role[0] != b"master":
                return [f"Redis is a {role[0].decode()}, not the primary"]
            for pid, leases in processes.items():
                lease = leases.get(shard)
                left = None if lease is None else await lease_deadline(store, lease)
                if left is None or left <= 0:
                    where = f" of shard {shard}" if len(stores) > 1 else ""
                    problems.append(f"process {pid}: its lease {lease or '-'}{where} is not held")
        return problems

    async def explain(
        self,
        job_id: str | None = None,
        *,
        queue: str | None = None,
        task: str | Task[..., Any] | None = None,
        instance: str | None = None,
        limit: str | None = None,
    ) -> list[Explanation]:
        """
        Why a job does not run, why it ran twice, and where its time went; or how a queue, task, instance (a lease or a
        label) or limit stands. Without arguments: what is wrong with the fleet, the gravest first; empty if all is well.

        A job and a task have one explanation, the others one for each shard or instance. Source: docs/reference/explain.md.
        """
        given = [name for name in (job_id, queue, task, instance, limit) if name is not None]
        if len(given) > 1:
            raise UsageError("give one of job_id, queue=, task=, instance= and limit=, or none of them")
        stores = self._connections.stores
        if job_id is not None:
            shard = self._connections.shards.of_id(check_name("job id", job_id))
            return [await explain_job(stores, shard, job_id, self._connections.cipher)]
        if queue is not None:
            return await explain_queue(stores, check_name("queue", queue))
        if task is not None:
            return [await explain_task(stores, _name_of(task))]
        if instance is not None:
            return explain_instance(check_text("instance", instance), await self.instances())
        if limit is not None:
            return await explain_limit(stores, check_text("limit", limit))
        return await problems_of(stores, await self.queues())

    # What the store remembers

    async def acts(self, limit: int = 100) -> list[Act]:
        """The last acts of operators, the newest first."""
        check_whole("limit", limit)
        return await read_acts(self._connections.stores[0], limit)

    async def recoveries(self, limit: int = 100) -> list[RecoveryReport]:
        """The last recoveries, the newest first."""
        check_whole("limit", limit)
        found = [
            replace(one, shard=shard)
            for shard, store in enumerate(self._connections.stores)
            for one in await read_recoveries(store, limit)
        ]
        return sorted(found, key=lambda one: one.at or _EPOCH, reverse=True)[:limit]

    # Dead jobs

    async def requeue(
        self,
        ids: Sequence[str] = (),
        *,
        matching: DeadFilter | None = None,
        everything: bool = False,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> DeadOutcome:
        """
        Queue dead jobs again: those of these ids, those that match, or all.

        Args:
            rate: At most this many a second.
            dry_run: Only look at what would be done.

        Raises:
            UsageError: Not exactly one of the three was given.
        """
        return await self._change_dead(requeue, ids, matching, everything, rate, dry_run)

    async def purge(
        self,
        ids: Sequence[str] = (),
        *,
        matching: DeadFilter | None = None,
        everything: bool = False,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> DeadOutcome:
        """Remove dead jobs for good; arguments as those of `requeue`."""
        return await self._change_dead(purge, ids, matching, everything, rate, dry_run)

    async def _change_dead(
        self,
        make: Any,
        ids: Sequence[str],
        matching: DeadFilter | None,
        everything: bool,
        rate: float | None,
        dry_run: bool,
    ) -> DeadOutcome:
        wanted = _filter(matching)
        check_flag("everything", everything)
        check_flag("dry_run", dry_run)
        for job_id in check_list("ids", ids, "ids"):
            check_name("job id", job_id)
        if bool(ids) + (wanted != DeadFilter()) + everything != 1:
            raise UsageError("give ids, or a filter, or everything=True (one of them)")
        if rate is not None and not (
            isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < float("inf")
        ):
            raise UsageError(f"rate={rate!r}: it must be a number above 0")
        size = MAX_RICH if rate is None else max(1, min(MAX_RICH, int(rate)))
        done, refused = 0, dict[str, DeadWord]()
        started, sent = time.monotonic(), 0
        stores = await self._connections.agreed()
        by_shard = self._connections.shards.by_shard(ids)
        for shard, store in enumerate(stores):
            source = _each(by_shard.get(shard, [])) if ids else _ids_of(store, wanted, self._connections)
            async for batch in _batches(source, size):
                if dry_run:
                    words = [_would_be(state) for state in await read_states(store, batch)]
                else:
                    if rate is not None:
                        await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
                    words = await store.run(requeue(batch, self.by) if make is requeue else purge(batch))
                    sent += len(batch)
                done += words.count(DeadWord.OK)
                refused.update((id, word) for id, word in zip(batch, words, strict=True) if word is not DeadWord.OK)
        if not dry_run:
            given = {"ids": list(ids[:MOST_NAMED])} if ids else _fields_of(wanted)
            await self._note("requeue" if make is requeue else "purge", jobs=done, refused=len(refused), **given)
        return DeadOutcome(done=done, refused=refused)

    # Jobs

    async def cancel(self, ids: Sequence[str]) -> dict[str, CancelWord]:
        """Cancel jobs: at once if they have not started, else within a second. What became of each, in the order given."""
        for job_id in check_list("ids", ids, "ids"):
            check_name("job id", job_id)
        stores, keep = await self._connections.agreed(), self._connections.settings.ended_ttl
        words: dict[str, CancelWord] = {}
        for shard, own in self._connections.shards.by_shard(ids).items():
            for at in range(0, len(own), MAX_RICH):
                batch = own[at : at + MAX_RICH]
                answers = await stores[shard].run(cancel(batch, keep, self.by))
                words.update(zip(batch, answers, strict=True))
        named = {job_id: words[job_id].value for job_id in ids[:MOST_NAMED]}
        await self._note("cancel", jobs=len(words), answers=named)
        return {job_id: words[job_id] for job_id in ids}

    async def cancel_many(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Cancel the jobs of a queue or a task that are queued, scheduled, waiting for others, parked or running now.

        Returns:
            How many were cancelled, or asked to end.
        """
        if (queue is None) == (task is None):
            raise UsageError("cancel_many: give queue= or task=")
        if queue is not None:
            check_name("queue", queue)
        named = None if task is None else _name_of(task)
        count, keep = 0, self._connections.settings.ended_ttl
        for store in await self._connections.agreed():
            async for ids in read_open_jobs(store, queue=queue, task=named):
                for at in range(0, len(ids), MAX_RICH):
                    answers = await store.run(cancel(ids[at : at + MAX_RICH], keep, self.by))
                    count += sum(word in (CancelWord.CANCELLED, CancelWord.REQUESTED) for word in answers)
            await drop_ended(store, queue=queue, task=named)
        await self._note("cancel_many", **_given(queue=queue, task=named), jobs=count)
        return count

    async def retire(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Let a queue that nobody serves any more, or a task that was removed from the code, leave nothing behind: its jobs are
        cancelled as by `cancel_many`, and the queue's name is forgotten. A later enqueue begins anew.

        Returns:
            How many jobs were cancelled.
        """
        count = await self.cancel_many(queue=queue, task=task)
        if queue is not None:
            kept = [store for store in self._connections.stores if not await store.run(forget(queue))]
            if kept:
                raise UsageError(
                    f"retire: queue {queue!r} got further jobs meanwhile; stop what enqueues there, and retire it again"
                )
        return count

    # The fleet

    async def pause(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Pause a queue, a task or a schedule over the whole fleet; False if it was paused."""
        what = ":".join(_one_of(queue=queue, task=task, schedule=schedule))
        answers = [await store.run(pause(what)) for store in await self._connections.agreed()]
        changed = any(answers)
        await self._note("pause", what=what, changed=changed)
        return changed

    async def resume(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Undo a pause; False if there was none. A task's parked jobs go back to their queues."""
        kind, name = _one_of(queue=queue, task=task, schedule=schedule)
        changed = False
        for store in await self._connections.agreed():
            changed = await store.run(resume(f"{kind}:{name}")) or changed
            while kind == "task":
                moved, remaining = await store.run(unpark(name, []))
                if not moved or not remaining:
                    break
        await self._note("resume", what=f"{kind}:{name}", changed=changed)
        return changed

    async def quiet(self, instance: str, *, undo: bool = False) -> list[str]:
        """
        Tell the live instances of a lease or a label to fetch no more jobs; what runs there goes on.

        Args:
            undo: Let them fetch again.

        Returns:
            The leases of the instances that were asked.
        """
        check_name("instance", instance)
        check_flag("undo", undo)
        leases = [
            item.lease
            for item in await self.instances()
            if instance in (item.lease, item.label) and item.alive
            if await self._connections.stores[item.shard].run(quiet(item.lease, not undo))
        ]
        if leases:
            await self._note("quiet", instance=instance, leases=leases, on=not undo)
        return leases

    async def recover(self) -> list[Recovered]:
        """
        Recover the jobs of all run-out leases now, and return what was moved. With `auto_recovery=False` nothing else
        recovers them. Leases that are alive, and a hold after an outage, are respected.
        """
        moved: list[Recovered] = []
        for store in await self._connections.agreed():
            moved += await recover_once(store, self._connections.settings, owner="app.recover")
        await self._note("recover", jobs=len(moved))
        return moved

    async def trigger(self, schedule: str) -> Job[Any]:
        """Run a schedule's task now, besides its ticks. Raises UsageError for a name that this app doesn't have."""
        stored = await self._producer.trigger(schedule)
        await self._note("trigger", schedule=schedule, job_id=stored.id)
        return stored


def _filter(given: DeadFilter | None) -> DeadFilter:
    if given is not None and not isinstance(given, DeadFilter):
        raise UsageError(f"{given!r} is a {type(given).__qualname__}; give a DeadFilter(...)")
    return given or DeadFilter()


def _fields_of(wanted: DeadFilter) -> dict[str, Any]:
    """What a filter asks for, without what it leaves open."""
    return _given(**{name: getattr(wanted, name) for name in wanted.__dataclass_fields__})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _would_be(state: State | None) -> DeadWord:
    return DeadWord.OK if state is State.DEAD else DeadWord.GONE if state is None else DeadWord.NOT_DEAD


def _name_of(task: Any) -> str:
    return check_name("task", task.name if isinstance(task, Task) else task)


Kind = Literal["queue", "task", "schedule"]


def _one_of(queue: Any = None, task: Any = None, schedule: Any = None) -> tuple[Kind, str]:
    given: dict[Kind, Any] = {"queue": queue, "task": task, "schedule": schedule}
    named = {kind: name for kind, name in given.items() if name is not None}
    if len(named) != 1:
        raise UsageError("give one of queue=, task= and schedule=")
    ((kind, name),) = named.items()
    return kind, check_name(kind, name.name if kind == "task" and isinstance(name, Task) else name)


async def _each(ids: Sequence[str]) -> AsyncIterator[str]:
    for job_id in ids:
        yield job_id


async def _ids_of(store: Store, wanted: DeadFilter, connections: Connections) -> AsyncIterator[str]:
    async for one in read_dead(store, wanted, connections.cipher):
        yield one.id


async def _batches(ids: AsyncIterator[str], size: int) -> AsyncIterator[list[str]]:
    batch: list[str] = []
    async for job_id in ids:
        batch.append(job_id)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
