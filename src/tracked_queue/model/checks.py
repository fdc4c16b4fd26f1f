"""Refusing wrong arguments where they are given: each error names the argument and says what to write."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import UsageError

MAX_NAME = 256
# A century: beyond it a number of seconds is a mistake, and its milliseconds would leave Redis' exact integers.
MAX_SECONDS = 100 * 366 * 86400.0


def check_name(kind: str, name: object) -> str:
    """
    A job id, queue or task name that may go to Redis: 1 to 256 characters of printable text.

    Raises:
        UsageError: Says which name and why.
    """
    if not isinstance(name, str):
        raise UsageError(f"{kind} {name!r}: it must be text, and is {type(name).__name__}")
    if not name or len(name) > MAX_NAME:
        shown = name[:40] + "…" if len(name) > MAX_NAME else name
        raise UsageError(f"{kind} {shown!r}: it has {len(name)} characters; allowed are 1 to {MAX_NAME}")
    if not name.isprintable():
        raise UsageError(f"{kind} {name!r}: only printable characters are allowed")
    return name


def to_seconds(name: str, value: Any, *, above: bool = False, negative: bool = False) -> float:
    """
    A number of seconds, also from a timedelta.

    Raises:
        UsageError: It is not a sensible one; `negative` numbers are allowed where the past means now.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, int) and not isinstance(number, bool) and abs(number) > MAX_SECONDS:
        number = MAX_SECONDS * 2 if number > 0 else -MAX_SECONDS * 2  # an int may have any number of digits
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
        raise UsageError(f"{name}={value!r}: it must be a number of seconds or a timedelta")
    if number > MAX_SECONDS:
        shown = repr(value)[:40]
        raise UsageError(f"{name}={shown}: it must be a number of seconds up to {MAX_SECONDS:.0f}, a century")
    if (above and number <= 0) or (number < 0 and not negative):
        raise UsageError(f"{name}={value!r}: it must be {'above 0' if above else '0 or more'}")
    return float(number)


def due_ms_of(name: str, at: datetime) -> int:
    """A time with a timezone in ms since 1970, at least 0. Raises UsageError."""
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise UsageError(f"{name}={at!r}: it must be a datetime with a timezone, such as datetime.now(UTC)")
    try:
        return max(0, int(at.astimezone(UTC).timestamp() * 1000))
    except OverflowError:
        raise UsageError(f"{name}={at!r}: it is out of the range of dates") from None


def check_flag(name: str, value: object) -> bool:
    """True or False, and not just something truthy or falsy."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r}: it must be True or False")
    return value


def check_list(name: str, value: object, of: str) -> list[Any] | tuple[Any, ...]:
    """A list or a tuple, which has an order and can be iterated twice."""
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name}={value!r}: it must be a list of {of}")
    return value


def check_mapping(name: str, value: object, of: str) -> Mapping[str, Any]:
    """A mapping with text as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{name}={value!r}: it must be a mapping of {of}")
    return value


def check_whole(name: str, value: object, least: int = 1) -> int:
    """A whole number that is not a truth value."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value!r}: it must be a whole number, {least} or more")
    return value


def check_text(name: str, value: object) -> str:
    """Text."""
    if not isinstance(value, str):
        raise UsageError(f"{name}={value!r}: it must be text")
    return value


def check_function(name: str, value: Any, shape: str, given: int, *, waits: bool) -> None:
    """
    A function that can be called with `given` arguments.

    Args:
        shape: How it is written, for the error.
        waits: Whether it must be an `async def`, or must not.
    """
    call = value if inspect.isroutine(value) else getattr(type(value), "__call__", None)  # noqa: B004
    is_async = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)
    if isinstance(value, type) or not callable(value) or is_async is not waits:
        raise UsageError(f"{name}={value!r}: write {shape}")
    try:
        inspect.signature(value).bind(*range(given))
    except TypeError as error:
        raise UsageError(f"{name}={value!r}: write {shape}; it can't be called that way ({error})") from None
    except ValueError:  # a function without a signature, in C
        pass


def check_source(function: Any) -> bool:
    """
    An `async def` function without arguments, or with one for the lifespan's state.

    Returns:
        Whether it takes that.

    Raises:
        UsageError: It is something else.
    """
    shape = "async def source() or async def source(state)"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise UsageError(f"schedule_source={function!r}: write {shape}") from None
    needed = [item for item in parameters if item.default is item.empty and item.kind is not item.VAR_KEYWORD]
    check_function("schedule_source", function, shape, min(len(needed), 1), waits=True)
    return len(needed) == 1


def check_lifespan(lifespan: Any) -> None:
    """An async context manager function without arguments."""
    if lifespan is None:
        return
    shown = getattr(lifespan, "__qualname__", repr(lifespan))
    if inspect.isasyncgenfunction(lifespan) or inspect.isgeneratorfunction(lifespan):
        raise UsageError(f"lifespan={shown}: it is a generator; put @contextlib.asynccontextmanager above it")
    if inspect.iscoroutinefunction(lifespan) or not callable(lifespan):
        raise UsageError(f"lifespan={shown}: write a function under @contextlib.asynccontextmanager that yields once")
    try:
        inspect.signature(lifespan).bind()
    except TypeError:
        raise UsageError(f"lifespan={shown}: it must take no arguments") from None
    except ValueError:
        pass


def check_sync_context(name: str, function: Any) -> None:
    """A context manager function without arguments, to be entered with `with`."""
    shown = getattr(function, "__qualname__", repr(function))
    wrapped = getattr(function, "__wrapped__", function)
    if inspect.isgeneratorfunction(function):
        raise UsageError(f"{name}: {shown} is a generator; put @contextlib.contextmanager above it")
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(wrapped):
        raise UsageError(f"{name}: {shown}: write a `def` under @contextlib.contextmanager that yields once")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise UsageError(f"{name}: {shown} must take no arguments; current_job() is there") from None
    except ValueError:
        pass


def check_carry(carry: Any) -> tuple[ContextVar[Any], ...]:
    """Context variables of different names."""
    variables = check_list("carry", carry, "context variables")
    for variable in variables:
        if not isinstance(variable, ContextVar):
            raise UsageError(f"carry: {variable!r} is a {type(variable).__qualname__}, not a ContextVar")
    names = [variable.name for variable in variables]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"carry: two variables are called {name!r}, and their values travel by name")
    return tuple(variables)
