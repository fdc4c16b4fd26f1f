"""Jobs that were enqueued without their task's code: the worker, which has it, puts unique key and limits on them."""

from __future__ import annotations

from collections.abc import Mapping

from .. import log
from ..model.constraints import Limit, of_queue, of_task
from ..model.options import bounds_of
from ..model.task import Registry, Task
from ..protocol.packing import encode_extras
from ..protocol.text import to_text
from ..protocol.transitions import FetchedJob
from ..sharding.placement import required_shards
from ..sharding.shards import Shards


class Binder:
    """
    Puts the unique keys and limits of an app's tasks and queues on jobs that were stored without them.

    Such a job was enqueued by name, or stored before a deploy that gave its task a limit. It is bound once: from then on it
    waits in its lane like any other (outcome `bound` of lua/settle.lua).
    """

    def __init__(self, tasks: Registry, of_queues: Mapping[str, tuple[Limit, ...]], shards: Shards) -> None:
        self._shards, self._told = shards, set[str]()
        self._tasks = frozenset(task for task in tasks if task.task_options.has_constraints)
        self._of_queues = {name.encode(): limits for name, limits in of_queues.items() if limits}
        self.any = bool(self._tasks or self._of_queues)

    def lacks(self, job: FetchedJob, task: Task[..., object]) -> bool:
        """Whether a job has to be bound before it may run."""
        return (task in self._tasks or job.queue in self._of_queues) and not job.bound

    def bounds(self, job: FetchedJob, task: Task[..., object], packed: tuple[bytes, bytes], given: int) -> bytes:
        """
        What the job's record lacks, encoded.

        Args:
            packed: Its encoded arguments.
            given: Leading arguments that come from the jobs before it.

        Raises:
            ArgumentError: Its arguments don't decode.
            UsageError: A key of an argument that the task doesn't have.
        """
        signature = task.signature
        bounds = bounds_of(
            task.name,
            job.queue.decode(),
            task.task_options,
            lambda: signature.arrived(*packed, given),
            self._of_queues.get(job.queue, ()),
        )
        if self._shards.count > 1 and task.name not in self._told:
            self._look_at_shard(job, task, bounds)
        if job.attempts or job.interruptions or job.recoveries:
            bounds.pop("unique", None)  # it began before its task had a key: a half-done job is not dropped for that
        return encode_extras(bounds)

    def _look_at_shard(self, job: FetchedJob, task: Task[..., object], bounds: Mapping[str, object]) -> None:
        """Warn if its key or limit belongs in another shard: its producer could not know, and it is bound here."""
        options, limits = task.task_options, self._of_queues.get(job.queue, ())
        where = required_shards(
            self._shards, task.name, job.queue.decode(), options.unique, options.limits, limits, bounds
        )
        shard = self._shards.of_id(to_text(job.id))
        if where and where[0][1] != shard:
            self._told.add(task.name)
            log.limits_split(task=task.name, shard=shard, home=where[0][1])


def known_limits(tasks: Registry, of_queues: Mapping[str, tuple[Limit, ...]]) -> dict[str, int]:
    """The numbers of all limits of an app, by name without a key's value: what lua/register.lua takes."""
    owned = [(of_task(task.name), limit) for task in tasks for limit in task.task_options.limits]
    owned += [(of_queue(queue), limit) for queue, limits in of_queues.items() for limit in limits]
    return {limit.base(owner): limit.most for owner, limit in owned}
