"""What an operator can look at, from Python: everything that only reads. The command line and the pages print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ..errors import UsageError, did_you_mean
from ..model.checks import check_flag, check_list, check_name, check_text, check_whole, to_seconds
from ..model.task import Task
from ..producer.connections import Connections
from ..protocol.times import RUN_EDGES
from ..reports.dead import DeadFilter, DeadGroup, DeadJob, dead_pages, grouped, read_dead
from ..reports.instances import ActiveJob, InstanceReport, lease_deadline, one_each, read_active, read_all_instances
from ..reports.jobs import read_places
from ..reports.limits import Holder, LimitReport, read_holders, read_limits
from ..reports.listing import LISTED_STATES, JobFilter, JobPage, ListedState
from ..reports.memory import Act, RecoveryReport, read_acts, read_recoveries
from ..reports.minutes import Minute, read_minutes
from ..reports.numbers import FleetNumbers, count_due, read_numbers
from ..reports.queues import Overview, queue_age, queue_known, read_overview
from ..reports.schedules import ScheduleReport, read_schedules
from ..reports.times import Histogram, Times, read_times
from ..reports.workflows import Workflow, read_workflow
from ..settings import Seconds
from .doctor import Finding, examine
from .explain import explain_instance, explain_job, explain_limit, explain_queue, explain_task, problems_of
from .explanation import Explanation
from .jobs import page_of
from .many import Candidate, Count, Selection, candidates, count
from .picture import Picture, Shared, take_picture
from .scale import Scale, scale_of

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """A task: how many live instances know it, its runs lately, and how many of its jobs are parked."""

    task: str
    instances: int
    runs: Histogram
    parked: int
    paused: bool


class Viewer:
    """
    What can be looked at, over all shards of the app's namespace. Nothing here changes anything, but `examine` tries what the
    scripts need on keys of its own.

    Every method raises StoreUnavailableError when Redis does not answer, and StoreRefusedError when it refuses.
    Source: docs/how-to/operate.md.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._pictures = Shared(lambda: take_picture(self._connections.stores))

    async def queues(self) -> Overview:
        """Queues with lengths, ages, rates and pauses; parked tasks; how many jobs are scheduled and dead."""
        return await read_overview(self._connections.stores)

    async def picture(self, *, fresh: bool = False) -> Picture:
        """
        Queues, instances, problems and running jobs at once. All who ask within a second share one reading; within longer,
        where it takes long.

        Args:
            fresh: Read it anew.
        """
        check_flag("fresh", fresh)
        return await take_picture(self._connections.stores) if fresh else await self._pictures.get()

    async def queue_age(self, queue: str) -> float | None:
        """Seconds that the oldest job of a queue has waited; None for an empty queue."""
        check_name("queue", queue)
        ages = [await queue_age(store, queue) for store in self._connections.stores]
        return max((age for age in ages if age is not None), default=None)

    async def knows(self, *, queue: str | None = None, task: str | None = None) -> bool:
        """Whether an instance serves this queue or has this task, or a job was ever in the queue, or waits for the task."""
        kind, name = one_of(queue=queue, task=task)
        for store in self._connections.stores:
            if kind == "queue" and await queue_known(store, name):
                return True
            if kind == "task" and (await store.read(("SISMEMBER", store.keys.parked, name)))[0]:
                return True
        instances = await self.instances()
        return any(name in (item.queues if kind == "queue" else item.task_names) for item in instances)

    async def instances(self) -> list[InstanceReport]:
        """All instances, shard by shard; those that were lost and still own jobs included."""
        return await read_all_instances(self._connections.stores)

    async def active(self, instance: InstanceReport, limit: int = 250) -> list[ActiveJob]:
        """The jobs that an instance owns, the oldest first."""
        if not isinstance(instance, InstanceReport):
            raise UsageError(f"active: {instance!r} is a {type(instance).__qualname__}; give one of instances()")
        check_whole("limit", limit)
        return await read_active(self._connections.stores[instance.shard], instance.lease, limit)

    async def jobs(
        self,
        state: ListedState,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        older: Seconds | None = None,
        limit: int = 100,
        start: str | None = None,
    ) -> JobPage:
        """
        Jobs of a state, at most `limit`: queued ones in the order in which they are taken, ended and dead ones the newest
        first. `retrying` are those of the scheduled ones that wait for a retry.

        At most 10,000 records a shard are read for a page; of ended jobs only the last 500 of each queue can be listed,
        and of a busy queue's successes a sample.

        Args:
            error: A part of the reason that a job ended or failed with, whatever the case.
            older: Only jobs that have been as they are for these seconds (or a timedelta) at least.
            start: `next` of the page before.
        """
        if state not in LISTED_STATES:
            raise UsageError(f"jobs: state={state!r}; {did_you_mean(str(state), LISTED_STATES)}")
        for kind, name in given(queue=queue, task=task).items():
            check_name(kind, name)
        if error is not None:
            check_text("error", error)
        check_whole("limit", limit)
        older_s = None if older is None else to_seconds("older", older)
        which = JobFilter(queue=queue, task=task, error=error, older_s=older_s)
        return await page_of(self._connections.stores, state, which, limit, start)

    async def limits(self) -> list[LimitReport]:
        """
        Limits and what waits for them, the most wanted first: every one without a key, and of those with a key the first that
        something waits for.
        """
        return await read_limits(self._connections.stores)

    async def holders(self, limit: str) -> list[Holder]:
        """Who holds places of a concurrency limit, by its stored name (`LimitReport.stored`); at most 100."""
        return await read_holders(self._connections.stores, check_text("limit", limit))

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
        known = Counter(name for item in one_each(instances) if item.alive for name in item.task_names)
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
        found = [one for store in self._connections.stores for one in await read_schedules(store)]
        return sorted(found, key=lambda item: item.name)

    async def dead(self, which: DeadFilter | None = None, *, limit: int = 100, newest: bool = False) -> list[DeadJob]:
        """Dead jobs that match, at most `limit`, the oldest first, or the newest."""
        wanted = filter_of(which)
        check_whole("limit", limit)
        check_flag("newest", newest)
        found: list[DeadJob] = []
        for store in self._connections.stores:
            of_shard = 0
            async for one in read_dead(store, wanted, self._connections.cipher, newest=newest):
                if of_shard >= limit:
                    break
                of_shard += 1
                found.append(one)
        return sorted(found, key=lambda one: one.age_s, reverse=not newest)[:limit]

    async def dead_groups(self, which: DeadFilter | None = None, *, look_at: int = 10_000) -> list[DeadGroup]:
        """
        Of about `look_at` of the newest dead jobs of each shard, those that match, grouped by task, error, place and message;
        the largest group first.
        """
        return grouped(await self.newest_dead(filter_of(which), look_at), datetime.now(UTC))

    async def newest_dead(self, which: DeadFilter, look_at: int) -> list[DeadJob]:
        """Of about so many of the newest dead jobs of each shard, those that match, the newest first."""
        wanted = filter_of(which)
        check_whole("look_at", look_at)
        found: list[DeadJob] = []
        for store in self._connections.stores:
            looked_at = 0
            async for page in dead_pages(store, self._connections.cipher, newest=True):
                found += [one for one in page[: look_at - looked_at] if wanted.matches(one)]
                looked_at += len(page)
                if looked_at >= look_at:
                    break
        return sorted(found, key=lambda one: one.age_s)

    async def count(
        self, which: Selection, most: int = 10_000, allowed: Callable[[str, str], bool] | None = None
    ) -> Count:
        """
        How many jobs are selected, and the first five, by about `most` records that are looked at.

        Args:
            allowed: Told the queue and the task of each; those for which it is false are not counted.
        """
        if not isinstance(which, Selection):
            raise UsageError(f"count: {which!r} is a {type(which).__qualname__}; give a Selection(...)")
        check_whole("most", most)
        return await count(self._connections.stores, which, self._connections.cipher, most, allowed)

    async def examine(self, *, try_scripts: bool = True) -> list[Finding]:
        """
        What `doctor` finds: whether server and settings keep the promise.

        Args:
            try_scripts: Whether to try the commands that the scripts need, on keys of their own, which are removed again.
        """
        return await examine(self._connections.stores, self._connections.settings, try_scripts=try_scripts)

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
            return [await explain_task(stores, name_of(task))]
        if instance is not None:
            return explain_instance(check_text("instance", instance), await self.instances())
        if limit is not None:
            return await explain_limit(stores, check_text("limit", limit))
        return await problems_of(stores, await self.queues())

    async def select(self, which: Selection, limit: int = 100) -> list[Candidate]:
        """The first jobs that are selected."""
        if not isinstance(which, Selection):
            raise UsageError(f"select: {which!r} is a {type(which).__qualname__}; give a Selection(...)")
        check_whole("limit", limit)
        found: list[Candidate] = []
        async for one in candidates(self._connections.stores, which, self._connections.cipher):
            found.append(one)
            if len(found) == limit:
                break
        return found

    async def places(self, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The queue and the task of each of these jobs that there is."""
        found: dict[str, tuple[str, str]] = {}
        for shard, own in self._connections.shards.by_shard(ids).items():
            found.update(await read_places(self._connections.stores[shard], own))
        return found

    async def workflow(self, job_id: str) -> Workflow:
        """The jobs around one: those that it comes after, and theirs, and those that still wait for it; at most 200."""
        check_name("job id", job_id)
        return await read_workflow(self._connections.store_of(job_id), job_id)

    async def minutes(self, since: int, until: int) -> list[Minute]:
        """
        What happened in each minute from one to another, counted since 1970; kept for two hours. A minute is added to for some
        minutes more.
        """
        return await read_minutes(self._connections.stores, since, until)

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


Kind = Literal["queue", "task", "schedule"]


def one_of(queue: Any = None, task: Any = None, schedule: Any = None) -> tuple[Kind, str]:
    """The one that was given, and its name. Raises UsageError for none, several, or what is no name."""
    given: dict[Kind, Any] = {"queue": queue, "task": task, "schedule": schedule}
    named = {kind: name for kind, name in given.items() if name is not None}
    if len(named) != 1:
        raise UsageError("give one of queue=, task= and schedule=")
    ((kind, name),) = named.items()
    return kind, check_name(kind, name.name if kind == "task" and isinstance(name, Task) else name)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def name_of(task: Any) -> str:
    """The name of a task, given by it or as the task itself. Raises UsageError."""
    return check_name("task", task.name if isinstance(task, Task) else task)


def filter_of(given: DeadFilter | None) -> DeadFilter:
    """The filter, or one that all match. Raises UsageError."""
    if given is not None and not isinstance(given, DeadFilter):
        raise UsageError(f"{given!r} is a {type(given).__qualname__}; give a DeadFilter(...)")
    return given or DeadFilter()
