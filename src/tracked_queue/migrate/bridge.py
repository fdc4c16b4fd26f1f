"""From another queue into this one: each call is claimed there, stored here once, and then forgotten there."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..app import TrackedQueue
from ..errors import UsageError
from ..model.task import PreparedCall
from .found import Found, Left, Source

PORTION = 100
# Of an id there; ours are bounded.
MAX_ID = 180
KNOWN_FOR_S = 30 * 86400.0


@dataclass(slots=True)
class OfTask:
    """The calls of one task: how many were (or can be) moved, and why others stay; when the first and the last one are due."""

    name: str
    moved: int = 0
    left: Counter[str] = field(default_factory=Counter)
    first_due: datetime | None = None
    last_due: datetime | None = None


@dataclass(slots=True)
class Report:
    """What was found, by the name that the other queue has for a task; '' where it could not be read."""

    queues: tuple[str, ...] = ()
    tasks: dict[str, OfTask] = field(default_factory=dict)

    @property
    def moved(self) -> int:
        """How many calls were moved, or can be."""
        return sum(of.moved for of in self.tasks.values())

    @property
    def left(self) -> int:
        """How many stay."""
        return sum(of.left.total() for of in self.tasks.values())

    def of(self, task: str) -> OfTask:
        """The part of one task."""
        return self.tasks.setdefault(task, OfTask(task))


class Bridge:
    """
    Moves calls. It may be ended at any point, and be run again: what was claimed is found again, and what was stored is known
    by its id.

    Args:
        app: Where the calls go.
        source: Where they come from.
        names: What a task of another name there is called here.
        keep_queues: Whether a call goes into the queue of the same name, and not into its task's.
    """

    def __init__(
        self, app: TrackedQueue, source: Source, names: Mapping[str, str] | None = None, *, keep_queues: bool = False
    ) -> None:
        self._app, self._source, self._names, self._keep = app, source, dict(names or {}), keep_queues
        for old, new in self._names.items():
            if app.tasks.get(new) is None:
                raise UsageError(f"--map {old}={new}: the app has no task {new!r}")

    async def plan(self, queues: Sequence[str] = ()) -> Report:
        """What `drain` would do. Nothing is changed, here or there."""
        report = Report(tuple(queues or await self._source.queues()))
        async for item in self._source.found(report.queues):
            if self._prepared(item, report) is not None:
                report.of(item.task).moved += 1
        return report

    async def drain(self, queues: Sequence[str] = ()) -> Report:
        """
        Move what waits now.

        Raises:
            EnqueueUnavailableError: This Redis did not answer; run it again.
            redis.RedisError: The other one did not.
        """
        report = Report(tuple(queues or await self._source.queues()))
        portion: list[tuple[Found, PreparedCall[Any]]] = []
        async for item in self._source.found(report.queues):
            call = self._prepared(item, report)
            if call is not None:
                assert isinstance(item, Found)
                portion.append((item, call))
            if len(portion) == PORTION:
                await self._move(portion, report)
                portion = []
        if portion:
            await self._move(portion, report)
        return report

    async def _move(self, portion: Sequence[tuple[Found, PreparedCall[Any]]], report: Report) -> None:
        fresh = [item for item, _ in portion if not item.claimed]
        taken = dict(zip((id(item) for item in fresh), await self._source.claim(fresh), strict=True))
        ours = [(item, call) for item, call in portion if taken.get(id(item), True)]
        for item in fresh:
            if not taken[id(item)]:
                report.of(item.task).left["a worker there has taken it meanwhile, and runs it"] += 1
        await self._app.enqueue_many([call for _, call in ours])
        await self._source.forget([item for item, _ in ours])
        for item, _ in ours:
            report.of(item.task).moved += 1

    def _prepared(self, item: Found | Left, report: Report) -> PreparedCall[Any] | None:
        """The call here; None, with the reason in the report, if it stays."""
        of = report.of(item.task)
        if isinstance(item, Left):
            of.left[item.why] += 1
            return None
        name = self._names.get(item.task, item.task)
        task = self._app.tasks.get(name)
        if task is None:
            of.left[f"the app has no task {name!r}: define it, or give --map {item.task}=..."] += 1
            return None
        now_ms = time.time() * 1000
        if item.expires_ms is not None and item.expires_ms <= now_ms:
            of.left["it has expired, and no worker would run it"] += 1
            return None
        options: dict[str, Any] = {"id": _id_of(self._source.name, item), "known_for": KNOWN_FOR_S}
        if self._keep and item.queue:
            options["queue"] = item.queue
        if item.expires_ms is not None:
            options["expires"] = (item.expires_ms - now_ms) / 1000
        if item.due_ms is not None and item.due_ms > now_ms:
            try:
                options["at"] = due = datetime.fromtimestamp(item.due_ms / 1000, UTC)
            except (ValueError, OverflowError, OSError):
                of.left[f"its due time, {item.due_ms} ms since 1970, is no date"] += 1
                return None
            of.first_due = due if of.first_due is None else min(of.first_due, due)
            of.last_due = due if of.last_due is None else max(of.last_due, due)
        try:
            args, kwargs = item.args, item.kwargs
            travels = getattr(task.function, "__tracked_queue_values__", None)
            if travels is not None:  # of tracked_queue.compat: its values travel in a form of their own
                args, kwargs = travels(args), travels(kwargs)
            call: PreparedCall[Any] = task.options(**options).call(*args, **kwargs)
        except UsageError as error:
            of.left[f"the task here doesn't take it: {error}"] += 1
            return None
        return call


def _id_of(source: str, item: Found) -> str:
    """
    The id here: the one there, and a digest of what tells this call from another one of the same id.

    An id may be used again there; what is found twice, since it was delivered again or a bridge has died, is the same call.
    """
    call = (item.id, item.task, _shape(item.args), _shape(item.kwargs), item.run or item.due_ms)
    digest = hashlib.sha256(repr(call).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{source}:{item.id[:MAX_ID]}:{digest}"


def _shape(value: Any) -> Any:
    """The same for the same value in every process."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, map(_shape, value)))
    if isinstance(value, Mapping):
        return sorted((repr(key), _shape(item)) for key, item in value.items())
    return [_shape(item) for item in value] if isinstance(value, list | tuple) else value
