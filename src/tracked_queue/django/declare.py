"""What a task may say of its jobs beyond what `django.tasks` knows: retries, timeouts, uniqueness, limits."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import UsageError, did_you_mean
from .api import InvalidTask, Task

F = TypeVar("F", bound=Callable[..., Any])

# Keywords of `TrackedQueue.task` that a Django task can give; its name and its queue are Django's own.
OPTIONS = (
    "max_attempts", "retry", "retry_on", "give_up_on", "timeout", "expires", "result_ttl", "unique", "limit", "fair_by",
    "isolate",
)  # fmt: skip
_ATTRIBUTE = "__tracked_queue__"


class _Unset:
    """Not given: the backend's TASK_OPTIONS, or Django's way, hold."""

    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackedTask(Task):
    """
    A task of this backend. From Django 6.1 on, `@task(max_attempts=3, ...)` takes these options; everywhere `@tracked(...)`
    below `@task()` does.

    Args:
        max_attempts: Runs in all; 1, which is Django's own way, if nothing else is said.
        retry, retry_on, give_up_on, timeout, expires, result_ttl, unique, limit, fair_by, isolate: As for
            `TrackedQueue.task`.
    """

    max_attempts: int = UNSET
    retry: Any = UNSET
    retry_on: Any = UNSET
    give_up_on: Any = UNSET
    timeout: Any = UNSET
    expires: Any = UNSET
    result_ttl: Any = UNSET
    unique: Any = UNSET
    limit: Any = UNSET
    fair_by: Any = UNSET
    isolate: Any = UNSET


def tracked(**options: Any) -> Callable[[F], F]:
    """
    Options for a Django task, on every version of Django: `@task()` above `@tracked(max_attempts=5)` above the function.

    Raises:
        UsageError: There is no such option.
    """
    _check(options, "tracked")

    def mark(function: F) -> F:
        if isinstance(function, Task):
            raise UsageError("tracked: write @tracked(...) below @task(), directly above the function")
        setattr(function, _ATTRIBUTE, options)
        return function

    return mark


def options_of(task: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a Django task: what `@task` was given, else `@tracked`, else the backend's, else Django's own way."""
    own = {name: getattr(task, name, UNSET) for name in OPTIONS}
    given = {name: value for name, value in own.items() if value is not UNSET}
    return {"max_attempts": 1, **defaults, **getattr(task.func, _ATTRIBUTE, {}), **given}


def check_defaults(options: object) -> Mapping[str, Any]:
    """The backend's TASK_OPTIONS. Raises UsageError."""
    if not isinstance(options, Mapping):
        raise UsageError(f"TASK_OPTIONS={options!r}: it must be a dict of options for all tasks")
    _check(options, "TASK_OPTIONS")
    return options


def _check(options: Mapping[str, Any], where: str) -> None:
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"{where}: there is no option {name!r}; {did_you_mean(name, OPTIONS)}")


def refused(task: Any, error: Exception) -> InvalidTask:
    """Our error about a task as Django's."""
    return InvalidTask(f"{task.module_path}: {error}")


def signature_of(task: Any) -> inspect.Signature:
    """A Django task's parameters without their types, since it takes plain JSON, and without the context."""
    parameters = list(inspect.signature(task.func).parameters.values())[1 if task.takes_context else 0 :]
    return inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
