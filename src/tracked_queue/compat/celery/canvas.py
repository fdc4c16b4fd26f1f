"""The simple canvas: a chain of tasks, a group of tasks, a chord of both. One inside of another is refused."""

from __future__ import annotations

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
        """The call that comes after another one."""
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
        """See `delay`; options of `apply_async` are for the first task."""
        if not self.parts:
            raise UsageError("chain(): it needs at least one task")
        first, *rest = self.parts
        queue = first.task.queue
        return AsyncResult(
            queue.chain_sync(first.clone(args, kwargs, **options).as_call(), *(part.as_step() for part in rest))
        )


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

    def __call__(self) -> GroupResult:
        return self.apply_async()

    def delay(self) -> GroupResult:
        """Store it."""
        return self.apply_async()

    def apply_async(self, **options: Any) -> GroupResult:
        """See `delay`; options of `apply_async` are for each task."""
        if not self.parts:
            return GroupResult([])
        jobs = _queue(self.parts).enqueue_many_sync([part.clone(**options).as_call() for part in self.parts])
        return GroupResult([AsyncResult(job) for job in jobs])


class chord:
    """A group, and a task that gets the list of its results: `chord([a.s(1), a.s(2)])(total.s())`."""

    def __init__(self, header: Any, body: Any = None) -> None:
        self.header = header if isinstance(header, group) else group(header)
        self.body = None if body is None else _signature("chord", body)

    def __call__(self, body: Any = None) -> AsyncResult[Any]:
        return chord(self.header, body).apply_async() if body is not None else self.apply_async()

    def __or__(self, other: object) -> Any:
        raise UsageError(f"chord: {_NESTED}")

    def delay(self) -> AsyncResult[Any]:
        """Store it; the result is the body's."""
        return self.apply_async()

    def apply_async(self, **options: Any) -> AsyncResult[Any]:
        """See `delay`; options of `apply_async` are for each task of the header."""
        if self.body is None:
            raise UsageError("chord: it has no body: write chord(header)(body)")
        if not self.header.parts:
            raise UsageError("chord: its header is empty, so nothing would start its body: enqueue that by itself")
        made = _queue(self.header.parts).group_sync(
            [part.clone(**options).as_call() for part in self.header.parts], then=self.body.as_step()
        )
        assert made.then is not None
        return AsyncResult(made.then)


def signature(task: CeleryTask[..., Any], args: Sequence[Any] = (), kwargs: Any = None, **options: Any) -> Signature:
    """A call of a task with options; by its name: `app.signature("shop.pay", ...)`."""
    if not hasattr(task, "signature"):
        raise UsageError(f"signature({task!r}): pass the task, or write app.signature(name)")
    return task.signature(args, kwargs, **options)


def _signature(where: str, part: object) -> Signature:
    if isinstance(part, Signature):
        return part
    if isinstance(part, chain | group | chord):
        raise UsageError(f"{where}: {_NESTED}")
    raise UsageError(f"{where}: {part!r} is no signature: write task.s(...)")


def _queue(parts: Sequence[Signature]) -> TrackedQueue:
    return parts[0].task.queue
