"""What keeps jobs apart over the whole fleet: unique keys, limits on concurrency and rate, fair turns. What the words mean for
one job is worked out here, at the enqueue; lua/enqueue.lua and lua/fetch.lua keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UsageError
from .job import check_name
from .retry import Seconds, to_seconds

Key = str | Sequence[str] | Callable[..., object]
MAX_KEY = 120


def key_text(key: Key, arguments: Mapping[str, Any], what: str) -> str:
    """
    The text of a key that is made of a job's arguments: one, several, or what a function of them says.

    Raises:
        UsageError: The task has no such argument.
    """
    if callable(key):
        parts = [key(**arguments)]
    else:
        names = [key] if isinstance(key, str) else list(key)
        for name in names:
            if name not in arguments:
                raise UsageError(f"{what}: the task has no argument {name!r}")
        parts = [arguments[name] for name in names]
    text = ",".join(map(str, parts))
    if len(text) <= MAX_KEY and text.isprintable():
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Unique:
    """
    At most one job of a key at a time.

    Args:
        until: `started`: until the job is handed to a worker; `done`: until it has ended, whatever happens to workers.
        by: Argument name(s), or a function of the arguments; None takes all arguments.
        conflict: What a second enqueue does: `existing` returns the handle of the job that is there (`created` is False),
            `reject` raises DuplicateJobError, `replace` gives the waiting job the new arguments and due time.
        window: Seconds for which the key stays held from the enqueue on, whatever the job does (throttle); takes the
            place of `until`.
    """

    until: str = "done"
    by: Key | None = None
    conflict: str = "existing"
    window: Seconds | None = None

    def __post_init__(self) -> None:
        if self.until not in ("started", "done"):
            raise UsageError(f"unique: until={self.until!r} must be 'started' or 'done'")
        if self.conflict not in ("existing", "reject", "replace"):
            raise UsageError(f"unique: conflict={self.conflict!r} must be 'existing', 'reject' or 'replace'")
        if self.window is not None:
            to_seconds("unique: window", self.window, above=True)

    def parts(self, task: str, arguments: Mapping[str, Any], canonical: Callable[[], bytes]) -> list[Any]:
        """key, until, conflict, ms of the window: as lua/enqueue.lua takes them."""
        if self.by is None:
            key = hashlib.sha256(canonical()).hexdigest()[:32]
        else:
            key = key_text(self.by, arguments, f"task {task}: unique by")
        until = self.until if self.window is None else "window"
        window_ms = 0 if self.window is None else max(1, round(to_seconds("window", self.window) * 1000))
        return [f"{task}:{key}", until, "replace" if self.conflict == "replace" else "existing", window_ms]


def unique_of(given: str | Unique | None) -> Unique | None:
    """What `unique=` stands for. Raises UsageError."""
    if given is None or isinstance(given, Unique):
        return given
    if given in ("until_started", "until_done"):
        return Unique(given.removeprefix("until_"))
    raise UsageError(f"unique={given!r}: it must be 'until_started', 'until_done' or Unique(...)")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """
    At most `most` jobs at a time over the whole fleet.

    Args:
        most: 1 or more.
        key: Argument name(s) or a function of the arguments: a limit for each value. None: one for all.
        name: Limits of the same name are one, also over several tasks. Default: the task's name.
    """

    most: int
    key: Key | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_limit("Concurrency", self.most, self.name)

    def base(self, owner: str) -> str:
        """Its name without a key's value: what all of its limits have in common."""
        return _base(self.name or owner, self.key)

    def parts(self, owner: str, arguments: Mapping[str, Any]) -> list[Any]:
        """name, kind, number, ms, bytes of the base: as lua/fetch.lua takes them."""
        base = self.base(owner)
        return [_limit_name(base, self.key, arguments), "concurrency", self.most, 0, len(base.encode())]


@dataclass(frozen=True, slots=True)
class Rate:
    """
    At most `most` starts in any `per` seconds over the whole fleet.

    Args:
        most: 1 or more.
        per: Seconds.
        key, name: As of Concurrency.
    """

    most: int
    per: Seconds
    key: Key | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_limit("Rate", self.most, self.name)
        to_seconds("Rate(per)", self.per, above=True)

    @property
    def per_ms(self) -> int:
        """`per` in milliseconds."""
        return max(1, round(to_seconds("per", self.per) * 1000))

    def base(self, owner: str) -> str:
        """As of Concurrency. The period is part of it: a rate a second and one an hour of the same owner are two."""
        return f"{_base(self.name or owner, self.key)}/{self.per_ms}ms"

    def parts(self, owner: str, arguments: Mapping[str, Any]) -> list[Any]:
        """As of Concurrency."""
        base = self.base(owner)
        return [_limit_name(base, self.key, arguments), "rate", self.most, self.per_ms, len(base.encode())]


Limit = Concurrency | Rate


def _check_limit(what: str, most: object, name: str | None) -> None:
    if name is not None:
        check_name("limit", name)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise UsageError(f"{what}({most!r}): it must be a whole number, 1 or more")


def _base(owner: str, key: Key | None) -> str:
    return owner if key is None else f"{owner}:{_label(key)}"


def _label(key: Key) -> str:
    if callable(key):
        return getattr(key, "__name__", type(key).__name__)
    return key if isinstance(key, str) else ",".join(key)


def _limit_name(base: str, key: Key | None, arguments: Mapping[str, Any]) -> str:
    return base if key is None else f"{base}={key_text(key, arguments, f'limit of {base}')}"


def limits_of(given: Limit | Sequence[Limit] | None) -> tuple[Limit, ...]:
    """What `limit=` stands for. Raises UsageError."""
    limits = () if given is None else (given,) if isinstance(given, Concurrency | Rate) else tuple(given)
    for limit in limits:
        if not isinstance(limit, Concurrency | Rate):
            raise UsageError(f"limit: {limit!r} must be Concurrency(...) or Rate(...)")
    bases = [limit.base("") for limit in limits]
    if len(set(bases)) < len(bases):
        raise UsageError("limit: two of the same kind, key and name; give one of them a name")
    return limits


def lane_of(queue: str, limits: Sequence[Sequence[Any]], turn: str | None) -> str:
    """The lane of jobs that share their limits and their turn."""
    parts = [str(limit[0]) for limit in limits] + ([f"turn:{turn}"] if turn is not None else [])
    text = "|".join(parts)
    return f"{queue}\n{text if len(text) <= 2 * MAX_KEY else hashlib.sha256(text.encode()).hexdigest()[:32]}"
