"""What keeps jobs apart over the whole fleet: unique keys, limits on concurrency and rate, fair turns. They
are worked out here for each job, at the enqueue; lua/enqueue.lua and lua/fetch.lua enforce them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from ..errors import UsageError
from ..settings import Seconds
from .canonical import MAX_KEY, canonical, part, short
from .checks import check_name, to_seconds

Key = str | Sequence[str] | Callable[..., object]
Until = Literal["started", "done"]
UniqueUntil = Literal["until_started", "until_done"]
OnConflict = Literal["existing", "reject", "replace"]


def checked_key(what: str, key: Any) -> Key:
    """
    A key as it is kept: a name, a tuple of names, or a function.

    Raises:
        UsageError: It is none of these; `what` says whose key it is.
    """
    if isinstance(key, str) or (isinstance(key, list | tuple) and key and all(isinstance(name, str) for name in key)):
        return key if isinstance(key, str) else tuple(key)
    if inspect.iscoroutinefunction(key) or inspect.isasyncgenfunction(key) or isinstance(key, type):
        raise UsageError(
            f"{what}={key!r}: write a plain function of the arguments, which returns text, a number or a tuple"
        )
    if callable(key):
        return cast("Key", key)
    raise UsageError(
        f"{what}={key!r}: write an argument's name, a list of at least one, or a function of the arguments"
    )


def key_text(key: Key, arguments: Mapping[str, Any], what: str) -> str:
    """
    The text of a key that is made of a job's arguments, as they arrive: one, several, or what a function of them says.

    Raises:
        UsageError: The task has no such argument, or a value that can't be part of a key.
    """
    if callable(key):
        values = [key(**arguments)]
    else:
        names = [key] if isinstance(key, str) else list(key)
        for name in names:
            if name not in arguments:
                raise UsageError(f"{what}: the task has no argument {name!r}")
        values = [arguments[name] for name in names]
    try:
        return short("".join(map(canonical, values)))
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None


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
        max_wait: With `replace`: whatever its delay, and however often it is replaced, a job is due so many seconds after the
            first enqueue at the latest (a bound for a debounce). A delay after the end of other jobs (`after`) has none.
    """

    until: Until = "done"
    by: Key | None = None
    conflict: OnConflict = "existing"
    window: Seconds | None = None
    max_wait: Seconds | None = None

    def __post_init__(self) -> None:
        if self.until not in ("started", "done"):
            raise UsageError(f"unique: until={self.until!r} must be 'started' or 'done'")
        if self.conflict not in ("existing", "reject", "replace"):
            raise UsageError(f"unique: conflict={self.conflict!r} must be 'existing', 'reject' or 'replace'")
        if self.window is not None:
            to_seconds("Unique(window)", self.window, above=True)
        if self.max_wait is not None:
            to_seconds("Unique(max_wait)", self.max_wait, above=True)
            if self.conflict != "replace":
                raise UsageError("unique: max_wait= bounds how long a job is replaced: write conflict='replace' too")
        if self.by is not None:
            object.__setattr__(self, "by", checked_key("Unique(by)", self.by))

    def parts(self, task: str, arguments: Mapping[str, Any]) -> list[Any]:
        """key, until, conflict, ms of the window, and of the longest wait if there is one: as lua/enqueue.lua takes them."""
        what = f"task {task}: unique by"
        key = short(canonical(arguments)) if self.by is None else key_text(self.by, arguments, what)
        until = self.until if self.window is None else "window"
        window_ms = 0 if self.window is None else max(1, round(to_seconds("window", self.window) * 1000))
        parts = [part("t", task) + key, until, "replace" if self.conflict == "replace" else "existing", window_ms]
        if self.max_wait is not None:
            parts.append(max(1, round(to_seconds("max_wait", self.max_wait) * 1000)))
        return parts


def unique_of(given: UniqueUntil | Unique | None) -> Unique | None:
    """What `unique=` stands for. Raises UsageError."""
    if given is None or isinstance(given, Unique):
        return given
    if given in ("until_started", "until_done"):
        return Unique("started" if given == "until_started" else "done")
    raise UsageError(f"unique={given!r}: it must be 'until_started', 'until_done' or Unique(...)")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """
    At most `most` jobs at a time over the whole fleet.

    Args:
        most: 1 or more.
        key: Argument name(s) or a function of the arguments: a limit for each value. None: one for all.
        name: Limits with the same name are one limit, even across tasks. Default: the task's name.
    """

    most: int
    key: Key | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_limit("Concurrency", self.most, self.name)
        if self.key is not None:
            object.__setattr__(self, "key", checked_key("Concurrency(key)", self.key))

    def base(self, owner: str) -> str:
        """Its name without a key's value: what all of its limits have in common."""
        return _base(self.name, owner, self.key)

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
        key, name: As for Concurrency.
    """

    most: int
    per: Seconds
    key: Key | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_limit("Rate", self.most, self.name)
        to_seconds("Rate(per)", self.per, above=True)
        if self.key is not None:
            object.__setattr__(self, "key", checked_key("Rate(key)", self.key))

    @property
    def per_ms(self) -> int:
        """`per` in milliseconds."""
        return max(1, round(to_seconds("per", self.per) * 1000))

    def base(self, owner: str) -> str:
        """As for Concurrency. The period is part of it: one owner's rates per second and per hour are two limits."""
        return _base(self.name, owner, self.key) + part("p", str(self.per_ms))

    def parts(self, owner: str, arguments: Mapping[str, Any]) -> list[Any]:
        """As for Concurrency."""
        base = self.base(owner)
        return [_limit_name(base, self.key, arguments), "rate", self.most, self.per_ms, len(base.encode())]


Limit = Concurrency | Rate


# A limit's number beyond this is a mistake; the scripts refuse it too.
MOST_OF_LIMIT = 10**9


def _check_limit(what: str, most: object, name: str | None) -> None:
    if name is not None:
        check_name(f"{what}(name)", name)
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST_OF_LIMIT:
        raise UsageError(f"{what}(most={most!r}): it must be a whole number, 1 to {MOST_OF_LIMIT}")


def of_task(task: str) -> str:
    """The owner in the names of a task's limits."""
    return part("t", task)


def of_queue(queue: str) -> str:
    """The owner in the names of a queue's limits."""
    return part("q", queue)


def _base(name: str | None, owner: str, key: Key | None) -> str:
    return (owner if name is None else part("n", name)) + ("" if key is None else part("k", _label(key)))


_OWNERS = {"n": "", "t": "task ", "q": "queue "}


class LimitName(NamedTuple):
    """
    What the stored name of a limit says: whose it is as people know it (its own name, `task t` or `queue q`), the label and the
    value of its key ('' without one), and the period of a rate in ms (0 for a concurrency).
    """

    shown: str
    key: str
    value: str
    per_ms: int


def read_limit_name(stored: str) -> LimitName | None:
    """Take a stored name apart; None if it is not of this form."""
    found, at = dict[str, str](), 0
    for letters in ("ntq", "k", "p"):
        letter, (length, colon, _) = stored[at : at + 1], stored[at + 1 : at + 7].partition(":")
        if not letter or letter not in letters or not colon or not length.isdecimal() or len(length) > 4:
            continue
        first = at + 2 + len(length)
        at = first + int(length)
        if at > len(stored):
            return None
        found[letter] = stored[first:at]
    owner = next((letter for letter in _OWNERS if letter in found), None)
    if owner is None:
        return None
    period = found.get("p", "0")
    per_ms = int(period) if period.isdecimal() and len(period) < 16 else 0
    return LimitName(_OWNERS[owner] + found[owner], found.get("k", ""), stored[at:], per_ms)


def limit_shown(base: str) -> str | None:
    """A limit's name as people know it: its own, `task t` or `queue q`; None for one with a key, or not of this form."""
    found = read_limit_name(base)
    return found.shown if found is not None and not (found.key or found.value or found.per_ms) else None


def stored_names(shown: str) -> list[str]:
    """The names under which the store may have a limit that people know by this one: as it is, its own, a task's, a queue's."""
    found = [shown, part("n", shown)]
    for letter, owner in (("t", "task "), ("q", "queue ")):
        found.append(part(letter, shown.removeprefix(owner)))
    return found


def _label(key: Key) -> str:
    if callable(key):
        return getattr(key, "__name__", type(key).__name__)
    return key if isinstance(key, str) else ",".join(key)


def _limit_name(base: str, key: Key | None, arguments: Mapping[str, Any]) -> str:
    return base if key is None else base + key_text(key, arguments, f"limit by {_label(key)}")


def limits_of(given: Limit | Sequence[Limit] | None, what: str = "limit") -> tuple[Limit, ...]:
    """What `limit=` stands for. Raises UsageError."""
    if given is None:
        return ()
    if not isinstance(given, Concurrency | Rate | list | tuple):
        raise UsageError(f"{what}={given!r}: write Concurrency(...), Rate(...), or a list of them")
    limits = (given,) if isinstance(given, Concurrency | Rate) else tuple(given)
    for limit in limits:
        if not isinstance(limit, Concurrency | Rate):
            raise UsageError(f"{what}={given!r}: {limit!r} is neither Concurrency(...) nor Rate(...)")
    bases = [limit.base("") for limit in limits]
    if len(set(bases)) < len(bases):
        raise UsageError(f"{what}: two of the same kind, key and name; give one of them a name")
    return limits


def lane_of(queue: str, limits: Sequence[Sequence[Any]], turn: str | None) -> str:
    """The lane of jobs that share their limits and their turn."""
    text = "".join(part("l", str(limit[0])) for limit in limits) + ("" if turn is None else part("t", turn))
    return f"{queue}\n{text if len(text) <= 2 * MAX_KEY else short(text)}"
