"""
Dependencies: parameters that are no arguments of the job but are made for it, as FastAPI makes them for a request.

A marker is anything with `dependency` and `use_cache`: `tracked_queue.Depends`, or FastAPI's own, which is not imported.

Source: docs/how-to/dependencies.md.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from ..errors import TaskDefinitionError
from .context import CurrentJob, JobContext

# What belongs to a request, by the package that defines it.
_OF_REQUESTS = ("starlette.", "fastapi.", "litestar.")
_NO_REQUEST = "a job has no request: pass what it needs from it as arguments of the job"


@dataclass(frozen=True, slots=True)
class Marker:
    """A parameter that is made by a function; see `Depends`."""

    dependency: Callable[..., Any] | None
    use_cache: bool = True
    shared: bool = False


def Depends(dependency: Callable[..., Any] | None = None, *, use_cache: bool = True, shared: bool = False) -> Any:
    """
    Mark a parameter as made by a function, `session: Annotated[Session, Depends(get_session)] = injected()` or
    `session: Session = Depends(get_session)`. FastAPI's own `Depends` says the same, but for `shared`.

    Args:
        dependency: A function, a generator function that yields once, or a class; `async` or not. None: the annotated class.
            It may have parameters with `Depends` of their own, a CurrentJob or JobContext, and others with defaults.
        use_cache: Whether all who depend on it in one job get the same value.
        shared: Make it once for a worker process, and leave it when that ends.

    Source: docs/how-to/dependencies.md.
    """
    return Marker(dependency, use_cache, shared)


def injected() -> Any:
    """The default of a parameter whose annotation has a `Depends`, so that type checkers don't ask for it at the enqueue."""
    return _Injected.VALUE


class _Injected(Enum):
    VALUE = "injected"

    def __repr__(self) -> str:
        return "injected()"


class Source(Enum):
    """What else a parameter of a dependency can be."""

    JOB = "job"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Needs:
    """One function that makes a value: what it needs, by parameter."""

    call: Callable[..., Any]
    needs: tuple[tuple[str, Marker | Source], ...]


def dependencies_of(task: str, function: Callable[..., Any], skip_first: bool) -> dict[str, Marker]:
    """
    The parameters of a task's function that are made for it.

    Raises:
        TaskDefinitionError: One stands before an argument, needs a request, or can't be made.
        Exception: Its annotations can't be read (yet).
    """
    parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
    found: dict[str, Marker] = {}
    for parameter in parameters:
        if parameter.annotation is parameter.empty and parameter.default is parameter.empty:
            continue
        where = f"task {task}: {parameter.name}"
        kind = _kind_of(parameter, function)
        marker = _marker(where, parameter, kind)
        if marker is not None:
            found[parameter.name] = marker
        elif parameter.default is _Injected.VALUE:
            raise TaskDefinitionError(f"{where} = injected(), and its annotation has no Depends(...)")
        else:
            _refuse_request(f"task {task}: argument {parameter.name}", parameter.default, kind)
    last = ""
    for parameter in parameters:
        by_position = parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if parameter.name in found and parameter.kind is not parameter.KEYWORD_ONLY:
            last = parameter.name
            if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
                raise TaskDefinitionError(f"task {task}: {last}: what Depends(...) makes is passed by name")
        elif last and by_position and parameter.name not in found:
            raise TaskDefinitionError(
                f"task {task}: {last} is made by Depends(...) and stands before the argument {parameter.name}: write it "
                "last, or after a *"
            )
    for name, marker in found.items():
        _check_tree(f"task {task}: {name}", marker, (), set())
    return found


def _check_tree(where: str, marker: Marker, above: tuple[Any, ...], seen: set[Any]) -> None:
    """Look at a dependency and all that it depends on. Raises TaskDefinitionError."""
    call = marker.dependency
    assert call is not None
    if call in above:
        raise TaskDefinitionError(f"{where}: {_name(call)} depends on itself")
    if (call, marker.shared) in seen:
        return
    seen.add((call, marker.shared))
    for name, need in needs_of(call).needs:
        if isinstance(need, Marker):
            if marker.shared and not need.shared:
                raise TaskDefinitionError(
                    f"{where}: {_name(call)} is shared, and its {name} is of one job: write Depends(..., shared=True) there too"
                )
            _check_tree(where, need, (*above, call), seen)
        elif marker.shared:
            raise TaskDefinitionError(f"{where}: {_name(call)} is shared, so there is no job for its {name}")


@lru_cache(maxsize=4096)
def needs_of(call: Callable[..., Any]) -> Needs:
    """
    What a function that makes a value needs.

    Raises:
        TaskDefinitionError: Something that a job doesn't have.
        Exception: Its annotations can't be read (yet).
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:  # in C, without a signature
        return Needs(call, ())
    needs: list[tuple[str, Marker | Source]] = []
    for parameter in parameters:
        where = f"{_name(call)}: {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = _kind_of(parameter, call)
        marker = _marker(where, parameter, kind)
        bare = _bare(kind)
        need = marker or {CurrentJob: Source.JOB, JobContext: Source.CONTEXT}.get(typing.get_origin(bare) or bare)
        if need is not None:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TaskDefinitionError(f"{where} is positional only: what a dependency needs is passed by name")
            needs.append((parameter.name, need))
            continue
        _refuse_request(where, parameter.default, kind)
        if parameter.default is _Injected.VALUE:
            raise TaskDefinitionError(f"{where} = injected(), and its annotation has no Depends(...)")
        if parameter.default is parameter.empty:
            raise TaskDefinitionError(
                f"{where} has no Depends(...) and no default; FastAPI would read it from the request, and {_NO_REQUEST}"
            )
    return Needs(call, tuple(needs))


def _kind_of(parameter: inspect.Parameter, call: Any) -> Any:
    """
    What a parameter's annotation stands for.

    Raises:
        NameError: It is text, and names something that can't be found (yet).
    """
    kind = parameter.annotation
    for _ in range(20):
        if isinstance(kind, str):
            one = SimpleNamespace(__annotations__={"one": kind})
            kind = typing.get_type_hints(one, _globals_of(call), include_extras=True)["one"]
        elif hasattr(kind, "__value__"):  # type X = ...
            kind = kind.__value__
        else:
            break
    return kind


def _globals_of(call: Any) -> dict[str, Any]:
    """Where the text of annotations is read: the module of the function that has them."""
    while not hasattr(call, "__globals__"):
        if isinstance(call, functools.partial):
            call = call.func
        elif hasattr(call, "__wrapped__") and not inspect.isclass(call):
            call = call.__wrapped__
        elif inspect.isclass(call):
            for name in ("__init__", "__new__"):
                if hasattr(getattr(call, name), "__globals__"):
                    return dict(getattr(call, name).__globals__)
            return dict(vars(sys.modules.get(call.__module__, typing)))
        elif inspect.ismethod(call):
            call = call.__func__
        elif inspect.isroutine(call):
            return {}
        else:
            call = type(call).__call__
    found: dict[str, Any] = inspect.unwrap(call).__globals__
    return found


def _bare(kind: Any) -> Any:
    """A type without what Annotated says of it."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return kind


def _is_marker(item: Any) -> bool:
    return isinstance(item, Marker) or (hasattr(item, "dependency") and hasattr(item, "use_cache"))


def _marker(where: str, parameter: inspect.Parameter, kind: Any) -> Marker | None:
    metadata = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
    # The last one counts, as for FastAPI; one that is the default before all.
    marked = [item for item in (parameter.default, *reversed(metadata)) if _is_marker(item)]
    if not marked:
        for part in typing.get_args(kind):
            inner = typing.get_args(part)[1:] if typing.get_origin(part) is typing.Annotated else ()
            if any(map(_is_marker, inner)) or (part is not kind and _bare(part) in (CurrentJob,)):
                raise TaskDefinitionError(f"{where} is one of several types, and is always made: write that one alone")
        return None
    item = marked[0]
    if getattr(item, "scopes", None):
        raise TaskDefinitionError(f"{where}: Security(...): its scopes are those of a request, and {_NO_REQUEST}")
    if getattr(item, "max_concurrency", None) is not None:
        raise TaskDefinitionError(
            f"{where}: max_concurrency= is of one process: write limit=Concurrency(...) at the task"
        )
    shared = getattr(item, "shared", False)
    if shared and not item.use_cache:
        raise TaskDefinitionError(f"{where}: shared=True and use_cache=False: what is shared is made once")
    call = item.dependency
    if call is None:
        call = _bare(kind)
        if call is parameter.empty:
            raise TaskDefinitionError(f"{where} = Depends(): name a function, or annotate a class")
    if not callable(call):
        raise TaskDefinitionError(f"{where}: Depends({call!r}): it takes a function or a class")
    try:
        hash(call)
    except TypeError:
        raise TaskDefinitionError(
            f"{where}: {call!r} has no hash, so it can't be known again: write a function"
        ) from None
    return Marker(call, item.use_cache, shared)


def _refuse_request(where: str, default: Any, kind: Any) -> None:
    """Refuse what only a request has: `Request` and the like as a type, `Header(...)` and the like as a marker."""
    parts = [default, kind]
    while parts:
        item = parts.pop()
        if not isinstance(item, type) or typing.get_args(item):
            parts += typing.get_args(item)
        of = item if isinstance(item, type) else type(item)
        if f"{of.__module__}.".startswith(_OF_REQUESTS):
            raise TaskDefinitionError(f"{where} is a {of.__qualname__}, and {_NO_REQUEST}")


def _name(call: Any) -> str:
    return getattr(call, "__qualname__", None) or repr(call)
