"""`fake`: enqueues are recorded and not stored; and finding one among many."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..app import TrackedQueue
from ..errors import ArgumentError, TrackedQueueError, UsageError, did_you_mean
from ..model.checks import to_seconds
from ..model.hooks import Enqueueing
from ..model.job import Job
from ..model.options import JobOptions
from ..model.record import JobInfo
from ..model.task import Task, TaskWithOptions
from ..settings import Seconds
from .handles import Faked
from .places import an_app, in_place_of_redis

# Due times that differ by no more are the same: `at=` a moment, or `delay=` until then.
TOLERANCE_MS = 1000
# How often a test that waits for an enqueue looks.
LOOK_S = 0.01

AnyTask = Task[..., Any] | TaskWithOptions[..., Any] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """
    One enqueue. `due_ms` is when it is due, since 1970, None for at once; `enqueued_ms` when it was made. `is_stored`: it is a
    job in Redis, of whose options only id, queue, headers and due time are known.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: JobOptions
    queue: str = ""
    due_ms: float | None = None
    enqueued_ms: float = 0.0
    is_stored: bool = False

    @classmethod
    def of_job(cls, info: JobInfo) -> Recorded:
        """A job that waits in Redis."""
        options = JobOptions(id=info.id, headers=dict(info.headers) or None)
        due_ms = None if info.due_at is None else info.due_at.timestamp() * 1000
        args, kwargs = info.args or (), dict(info.kwargs or {})
        queued_ms = 0.0 if info.queued_at is None else info.queued_at.timestamp() * 1000
        return cls(
            task=info.task, args=args, kwargs=kwargs, options=options, queue=info.queue, due_ms=due_ms, enqueued_ms=queued_ms,
            is_stored=True,
        )  # fmt: skip


class including:
    """
    Equal to any mapping that has these items, or any sequence that begins with them; nested mappings may have more, too.

    `queue.assert_enqueued(send, order=including({"id": 7}))`.
    """

    def __init__(self, part: Any) -> None:
        self._part = part

    def __eq__(self, other: object) -> bool:
        return _includes(other, self._part)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"including({self._part!r})"


def _includes(whole: Any, part: Any) -> bool:
    if isinstance(part, Mapping):
        if not isinstance(whole, Mapping):
            if not part or whole is None:
                return False
            whole = {name: getattr(whole, name) for name in part if hasattr(whole, str(name))}
        return all(name in whole and _includes(whole[name], value) for name, value in part.items())
    if isinstance(part, list | tuple) and isinstance(whole, list | tuple):
        return len(part) <= len(whole) and all(map(_includes, whole, part))
    return bool(whole == part)


class Records:
    """Enqueues of an app, for assertions."""

    def __init__(self, app: TrackedQueue | None, calls: list[Recorded]) -> None:
        self.app, self.calls = app, calls

    def all_enqueued(self, task: AnyTask | None = None) -> list[Recorded]:
        """All enqueues, or those of a task, with the options that it is given: `task.options(queue="mail")`."""
        return [call for call in list(self.calls) if task is None or self._fits(call, task)]

    def assert_enqueued(self, task: AnyTask, *args: Any, **kwargs: Any) -> Recorded:
        """
        The first enqueue of a task with these arguments, by position or by name; those that are left out may be anything.

        Args:
            task: With `task.options(...)` also these options: `queue`, `id`, `headers` (at least these), `max_attempts`, ...;
                `delay` and `at` fit each other, within a second.

        Raises:
            AssertionError: There was none; shows those of the task.
        """
        found = self.all_enqueued(task)
        wanted = self._named_arguments(self._name(task), args, kwargs)
        for call in found:
            if self._has(call, wanted, args, kwargs):
                return call
        name = self._name(task)
        others = [call for call in self.calls if call.task == name]
        shown = "; ".join(map(_shown, others)) or "none"
        raise AssertionError(f"no enqueue of {_asked(task, name, args, kwargs)}; its enqueues: {shown}")

    def assert_not_enqueued(self, task: AnyTask, *args: Any, **kwargs: Any) -> None:
        """
        Raises:
            AssertionError: There was one, with these arguments and options.
            UsageError: The app has no task of that name.
        """
        name = self._name(task)
        if self.app is not None and self.app.tasks.get(name) is None:
            known = [known.name for known in self.app.tasks]
            raise UsageError(f"task {name!r}: this app has none of that name; {did_you_mean(name, known)}")
        wanted = self._named_arguments(name, args, kwargs)
        found = [call for call in self.all_enqueued(task) if self._has(call, wanted, args, kwargs)]
        assert not found, f"{len(found)} enqueues of {name}: {'; '.join(map(_shown, found))}"

    def _name(self, task: Any) -> str:
        if isinstance(task, TaskWithOptions):
            task = task.task
        if not isinstance(task, Task | str):
            task = getattr(task, "task", task)  # one of Celery's interface
        name = task.name if isinstance(task, Task) else getattr(task, "module_path", task)  # one of Django's
        if not isinstance(name, str):
            raise UsageError(f"{task!r} is a {type(task).__qualname__}; give a task, or its name")
        return name

    def _fits(self, call: Recorded, task: AnyTask) -> bool:
        if call.task != self._name(task):
            return False
        if not isinstance(task, TaskWithOptions):
            return True
        given = task.given
        for option in ("delay", "at"):
            if getattr(given, option) is not None:
                # A delay counts from the enqueue, whenever this is asked.
                due_ms = due_ms_of(given, call.enqueued_ms)
                if call.due_ms is None or due_ms is None or abs(call.due_ms - due_ms) > TOLERANCE_MS:
                    return False
        if given.queue is not None and call.queue != given.queue:
            return False
        if given.headers is not None and not _includes(dict(call.options.headers or {}), given.headers):
            return False
        exact = ["timeout", "max_attempts", "expires", "known_for", "durability"]
        if call.is_stored and (unseen := [name for name in exact if getattr(given, name) is not None]):
            raise UsageError(
                f"options({unseen[0]}=...): a kit finds jobs by id, queue, headers and due time; use fake() for others"
            )
        exact.append("id")
        return all(
            getattr(given, name) is None or getattr(given, name) == getattr(call.options, name) for name in exact
        )

    def _bound(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments by name, so that a call by position is the same as one by name; None for a task that is not known."""
        task = None if self.app is None else self.app.tasks.get(name)
        if task is None:
            return None
        try:
            return task.signature.bind(args, kwargs)
        except TrackedQueueError:
            return None

    def _named_arguments(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Those that are given, by name; None if the positional ones have none."""
        task = None if self.app is None else self.app.tasks.get(name)
        if task is None:
            return None if args else dict(kwargs)
        try:
            return task.signature.by_name(args, kwargs)
        except ArgumentError as error:
            raise UsageError(f"no call has such arguments: {error}") from None

    def _has(
        self, call: Recorded, wanted: dict[str, Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> bool:
        bound = self._bound(call.task, call.args, call.kwargs)
        if wanted is None:
            return call.args[: len(args)] == args and all(
                name in call.kwargs and call.kwargs[name] == value for name, value in kwargs.items()
            )
        if bound is None:
            bound = call.kwargs
        return all(name in bound and bound[name] == value for name, value in wanted.items())


@dataclass(slots=True)
class Fake:
    """What `fake()` yields: the enqueues that were made, none of which was stored."""

    calls: list[Recorded] = field(default_factory=list)
    app: TrackedQueue | None = None

    @property
    def _records(self) -> Records:
        return Records(self.app, self.calls)

    def all_enqueued(self, task: AnyTask | None = None) -> list[Recorded]:
        """See Records.all_enqueued."""
        return self._records.all_enqueued(task)

    def assert_enqueued(self, task: AnyTask, *args: Any, **kwargs: Any) -> Recorded:
        """See Records.assert_enqueued. Raises AssertionError."""
        return self._records.assert_enqueued(task, *args, **kwargs)

    def assert_not_enqueued(self, task: AnyTask, *args: Any, **kwargs: Any) -> None:
        """See Records.assert_not_enqueued. Raises AssertionError."""
        self._records.assert_not_enqueued(task, *args, **kwargs)

    def within(self, seconds: Seconds) -> Within:
        """
        Assertions that wait: for code that enqueues in another task or thread.

        `await queue.within(2).assert_enqueued(send, 7)`; without an event loop `queue.within(2).assert_enqueued_sync(send, 7)`.
        """
        return Within(self._records, to_seconds("within", seconds))


class Within:
    """See Fake.within."""

    def __init__(self, records: Records, seconds: float) -> None:
        self._records, self._seconds = records, seconds

    async def assert_enqueued(self, task: AnyTask, *args: Any, **kwargs: Any) -> Recorded:
        """As soon as there is such an enqueue. Raises AssertionError when the time is up."""
        end = time.monotonic() + self._seconds
        while True:
            found = self._look(lambda: self._records.assert_enqueued(task, *args, **kwargs), end)
            if found is not None:
                return found
            await asyncio.sleep(LOOK_S)

    def assert_enqueued_sync(self, task: AnyTask, *args: Any, **kwargs: Any) -> Recorded:
        """`assert_enqueued` for code without an event loop."""
        end = time.monotonic() + self._seconds
        while True:
            found = self._look(lambda: self._records.assert_enqueued(task, *args, **kwargs), end)
            if found is not None:
                return found
            time.sleep(LOOK_S)

    def _look(self, look: Callable[[], Recorded], end: float) -> Recorded | None:
        try:
            return look()
        except AssertionError:
            if time.monotonic() >= end:
                raise
            return None


def due_ms_of(options: JobOptions, now_ms: float) -> float | None:
    """When a job is due, ms since 1970; None for at once."""
    if options.due_ms is not None:
        return options.due_ms
    return None if options.delay_ms is None else now_ms + options.delay_ms


def _shown(call: Recorded) -> str:
    parts = [*map(repr, call.args), *(f"{name}={value!r}" for name, value in call.kwargs.items())]
    due = "" if call.due_ms is None else f", due {datetime.fromtimestamp(call.due_ms / 1000).astimezone().isoformat()}"
    return f"({', '.join(parts)}) in queue {call.queue or 'default'}{due}"


def _asked(task: AnyTask, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    parts = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    options = ""
    if isinstance(task, TaskWithOptions):
        names = (
            "queue",
            "delay",
            "at",
            "id",
            "headers",
            "timeout",
            "max_attempts",
            "expires",
            "known_for",
            "durability",
        )
        given = {key: getattr(task.given, key) for key in names}
        options = f" with {', '.join(f'{key}={value!r}' for key, value in given.items() if value is not None)}"
    return f"{name}({', '.join(parts)}){options}"


@contextlib.contextmanager
def fake(app: TrackedQueue) -> Iterator[Fake]:
    """Record enqueues and store none; arguments are checked all the same. Needs no Redis."""
    recorded = Fake(app=an_app("fake", app))

    async def record(on_its_way: Enqueueing, call_next: Any) -> Job[Any]:
        task = app.tasks.get(on_its_way.task)
        if task is not None:
            given = 1 if on_its_way.options.inputs else 0
            task.signature.encode(on_its_way.args, on_its_way.kwargs, app.settings.max_payload, given)
        now_ms = time.time() * 1000
        recorded.calls.append(
            Recorded(
                task=on_its_way.task, args=on_its_way.args, kwargs=dict(on_its_way.kwargs), options=on_its_way.options,
                queue=on_its_way.queue, due_ms=due_ms_of(on_its_way.options, now_ms), enqueued_ms=now_ms,
            )
        )  # fmt: skip
        return Job(on_its_way.id or f"fake-{len(recorded.calls)}", True, Faked())

    with in_place_of_redis(app, record, "this app's enqueues are only recorded (fake), so it must not use Redis"):
        yield recorded
