"""The simple canvas: a chain of tasks, a group of tasks, a chord of both. One inside of another is refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...app import TrackedQueue
from ...errors import UsageError
from ...model.task import PreparedCall, Step
from .results import AsyncResult, GroupResult

if TYPE_CHECKING:
    from .tasks import CeleryTask

_NESTED = (
    "a canvas inside of another one has no counterpart: let the task that ends the inner one enqueue what comes next"
)

MISSING = {
    "link": ": write a chain, a.s() | b.s()",
    "on_error": ": queue.options(after=[job], on_failure='fallback') for the task that mends it",
    "link_error": ": queue.options(after=[job], on_failure='fallback') for the task that mends it",
    "apply": ": call it, or run jobs by tracked_queue.testing",
    "freeze": ": give the task an id, .set(task_id=...)",
}


class Signature:
    """A call of a task that is not sent yet; made by `task.s(...)` and `task.si(...)`."""

    def __init__(
        self, task: CeleryTask[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], *,
        immutable: bool,
    ) -> None:  # fmt: skip
        self.task, self.args, self.kwargs = task, tuple(args), dict(kwargs)
        self.options, self.immutable = dict(options), immutable

    def __repr__(self) -> str:
        return f"<Signature of {self.task.name}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a signature has no .{name} here{MISSING.get(name, '')}")

    def __or__(self, other: object) -> chain:
        return chain(self) | other

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now, with these arguments before its own."""
        before = () if self.immutable else args
        return self.task(*before, *self.args, **{**self.kwargs, **({} if self.immutable else kwargs)})

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature:
        """A copy with more arguments, before its own, and more options."""
        own = self if not self.immutable else None
        return Signature(
            self.task, (*(args if own else ()), *self.args), {**self.kwargs, **((kwargs or {}) if own else {})},
            {**self.options, **options}, immutable=self.immutable,
        )  # fmt: skip

    def set(self, immutable: bool | None = None, **options: Any) -> Signature:
        """More options, here."""
        self.options.update(options)
        self.immutable = self.immutable if immutable is None else immutable
        return self

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Store it as a job, with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """`delay` with options."""
        whole = self.clone(args, kwargs, **options)
        return whole.task.apply_async(whole.args, whole.kwargs, **whole.options)

    def as_call(self) -> PreparedCall[Any]:
        """The call that stands first."""
        return self.task.call(self.args, self.kwargs, self.options)

    def as_step(self) -> Step | PreparedCall[Any]:
        """
        The call that comes after another one.

        Raises:
            UsageError: It expires some time after it is sent, which here is when the whole is enqueued.
        """
        expires = self.options.get("expires", self.task.expires)
        if expires is not None and not isinstance(expires, datetime.datetime | str):
            raise UsageError(
                f"{self!r}: expires={expires!r} would count from the enqueue of the whole, and not from when what comes "
                "before it has ended: give a datetime, or leave it out"
            )
        return self.as_call() if self.immutable else self.task.step(self.args, self.kwargs, self.options)


class chain:
    """Tasks one after the other, each with the result of the one before: `chain(a.s(1), b.s())`, or `a.s(1) | b.s()`."""

    def __init__(self, *parts: Any) -> None:
        if len(parts) == 1 and not isinstance(parts[0], Signature) and isinstance(parts[0], Iterable):
            parts = tuple(parts[0])
        self.parts = [_signature("chain", part) for part in parts]

    def __or__(self, other: object) -> chain:
        return chain(*self.parts, *(other.parts if isinstance(other, chain) else [other]))

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        return self.apply_async(args, kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Store it, with these arguments for its first task; the result is the last one's."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """See `delay`; `task_id` is the last task's, other options of `apply_async` are for the first one."""
        if not self.parts:
            raise UsageError("chain(): it needs at least one task")
        task_id = options.pop("task_id", None)
        first, *rest = [self.parts[0].clone(args, kwargs, **options), *(part.clone() for part in self.parts[1:])]
        if task_id is not None:
            (rest or [first])[-1].set(task_id=task_id)
        return AsyncResult(first.task.queue.chain_sync(first.as_call(), *(part.as_step() for part in rest)))


class group:
    """Tasks side by side: `group(a.s(n) for n in range(10))`. `group(...) | b.s()` is a chord."""

    def __init__(self, *parts: Any) -> None:
        if len(parts) == 1 and not isinstance(parts[0], Signature):
            if not isinstance(parts[0], Iterable):
                raise UsageError(
                    f"group({parts[0]!r}): {_NESTED if isinstance(parts[0], chain | chord) else 'pass task.s(...)'}"
                )
            parts = tuple(parts[0])
        self.parts = [_signature("group", part) for part in parts]

    def __or__(self, other: object) -> chord:
        return chord(self, other)

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult:
        return self.apply_async(args, kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> GroupResult:
        """Store it, with these arguments for each task, before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """
        See `delay`; options of `apply_async` are for each task.

        Raises:
            UsageError: `task_id`, which all of them would have.
        """
        if options.get("task_id") is not None:
            raise UsageError("group: task_id= is one task's: give each its own, task.s(...).set(task_id=...)")
        if not self.parts:
            return GroupResult([])
        calls = [part.clone(args, kwargs, **options).as_call() for part in self.parts]
        jobs = _queue(self.parts).enqueue_many_sync(calls)
        return GroupResult([AsyncResult(job) for job in jobs])


class chord:
    """A group, and a task that gets the list of its results: `chord([a.s(1), a.s(2)])(total.s())`."""

    def __init__(self, header: Any, body: Any = None) -> None:
        self.header = header if isinstance(header, group) else group(header)
        self.body = None if body is None else _signature("chord", body)

    def __call__(self, body: Any = None, **options: Any) -> AsyncResult[Any]:
        return (self if body is None else chord(self.header, body)).apply_async(**options)

    def __or__(self, other: object) -> Any:
        raise UsageError(f"chord: {_NESTED}")

    def delay(self) -> AsyncResult[Any]:
        """Store it; the result is the body's."""
        return self.apply_async()

    def apply_async(self, **options: Any) -> AsyncResult[Any]:
        """See `delay`; `task_id` is the body's, other options of `apply_async` are for each task of the header."""
        task_id = options.pop("task_id", None)
        if self.body is None:
            raise UsageError("chord: it has no body: write chord(header)(body)")
        if not self.header.parts:
            raise UsageError("chord: its header is empty, so nothing would start its body: enqueue that by itself")
        body = self.body.clone(**({} if task_id is None else {"task_id": task_id}))
        made = _queue(self.header.parts).group_sync(
            [part.clone(**options).as_call() for part in self.header.parts], then=body.as_step()
        )
        assert made.then is not None
        return AsyncResult(made.then)


def signature(
    task: CeleryTask[..., Any] | str, args: Sequence[Any] = (), kwargs: Any = None, **options: Any
) -> Signature:
    """A call of a task with options; of a task of the first `Celery` of this process also by its name."""
    if isinstance(task, str):
        from .app import current_app

        made: Signature = current_app.signature(task, args, kwargs, **options)
        return made
    if not hasattr(task, "signature"):
        raise UsageError(f"signature({task!r}): pass the task, or its name")
    return task.signature(args, kwargs, **options)


def _signature(where: str, part: object) -> Signature:
    if isinstance(part, Signature):
        return part
    if isinstance(part, chain | group | chord):
        raise UsageError(f"{where}: {_NESTED}")
    raise UsageError(f"{where}: {part!r} is no signature: write task.s(...)")


def _queue(parts: Sequence[Signature]) -> TrackedQueue:
    return parts[0].task.queue
