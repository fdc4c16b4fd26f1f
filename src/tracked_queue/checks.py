"""Refusing what can't be meant, where it is said: each error names the argument and says what to write."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from .errors import UsageError


def check_flag(name: str, value: object) -> bool:
    """True or False, and nothing that only counts as one of them."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r}: it must be True or False")
    return value


def check_list(name: str, value: object, of: str) -> list[Any] | tuple[Any, ...]:
    """A list or a tuple: what can be looked at twice and has an order."""
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
    A function that can be called with so many arguments.

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
        raise UsageError(f"{name}={value!r}: write {shape}; it can't be called so ({error})") from None
    except ValueError:  # a function without a signature, in C
        pass


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


def check_carry(carry: Any) -> tuple[ContextVar[Any], ...]:
    """Context variables of different names."""
    variables = check_list("carry", carry, "context variables")
    for variable in variables:
        if not isinstance(variable, ContextVar):
            raise UsageError(f"carry: {variable!r} is a {type(variable).__qualname__} and no ContextVar")
    names = [variable.name for variable in variables]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"carry: two variables are called {name!r}, and their values travel by name")
    return tuple(variables)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The end of an error about a name that nobody knows."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(sorted(known)[:20])}" if known else "there are none"
