"""
Dependencies: parameters that are no arguments of the job but are made for it, as FastAPI makes them for a request.

A marker is anything with `dependency` and `use_cache`: `tracked_queue.Depends`, or FastAPI's own, which is not imported.

Source: docs/how-to/dependencies.md.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
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
    if any(map(_may_be_marked, parameters)):
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
        for parameter in parameters:
            kind = hints.get(parameter.name, parameter.annotation)
            marker = _marker(parameter.default, kind)
            if marker is not None:
                found[parameter.name] = marker
            elif parameter.default is _Injected.VALUE:
                raise TaskDefinitionError(
                    f"task {task}: {parameter.name} = injected(), and its annotation has no Depends(...)"
                )
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
        check_tree(f"task {task}: {name}", marker, ())
    return found


def check_tree(where: str, marker: Marker, above: tuple[Any, ...]) -> None:
    """Look at a dependency and all that it depends on. Raises TaskDefinitionError."""
    call = marker.dependency
    assert call is not None
    if call in above:
        raise TaskDefinitionError(f"{where}: {_name(call)} depends on itself")
    for name, need in needs_of(call).needs:
        if isinstance(need, Marker):
            if marker.shared and not need.shared:
                raise TaskDefinitionError(
                    f"{where}: {_name(call)} is shared, and its {name} is of one job: write Depends(..., shared=True) there too"
                )
            check_tree(where, need, (*above, call))
        elif marker.shared:
            raise TaskDefinitionError(f"{where}: {_name(call)} is shared, so there is no job for its {name}")


@lru_cache(maxsize=4096)
def needs_of(call: Callable[..., Any]) -> Needs:
    """
    What a function that makes a value needs.

    Raises:
        TaskDefinitionError: Something that a job doesn't have.
    """
    if not callable(call):
        raise TaskDefinitionError(f"Depends({call!r}): it takes a function or a class")
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:  # in C, without a signature
        return Needs(call, ())
    hints = _hints_of(call)
    needs: list[tuple[str, Marker | Source]] = []
    for parameter in parameters:
        where = f"{_name(call)}: {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = hints.get(parameter.name, parameter.annotation)
        marker = _marker(parameter.default, kind)
        origin = typing.get_origin(kind) or kind
        if marker is not None:
            needs.append((parameter.name, marker))
        elif origin is CurrentJob:
            needs.append((parameter.name, Source.JOB))
        elif origin is JobContext:
            needs.append((parameter.name, Source.CONTEXT))
        else:
            _refuse_request(where, parameter.default, kind)
            if parameter.default is parameter.empty:
                raise TaskDefinitionError(
                    f"{where} has no Depends(...) and no default; FastAPI would read it from the request, and {_NO_REQUEST}"
                )
    return Needs(call, tuple(needs))


def _hints_of(call: Any) -> Mapping[str, Any]:
    of = call.__init__ if inspect.isclass(call) else call
    if not (inspect.isfunction(of) or inspect.ismethod(of) or inspect.isclass(call)):
        of = type(call).__call__
    try:
        return typing.get_type_hints(inspect.unwrap(of), include_extras=True)
    except Exception as error:
        raise TaskDefinitionError(f"{_name(call)}: its annotations can't be read ({error})") from None


def _may_be_marked(parameter: inspect.Parameter) -> bool:
    return parameter.annotation is not parameter.empty or parameter.default is not parameter.empty


def _marker(default: Any, kind: Any) -> Marker | None:
    metadata = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
    for item in (default, *metadata):
        if not isinstance(item, Marker) and not (hasattr(item, "dependency") and hasattr(item, "use_cache")):
            continue
        if getattr(item, "scopes", None):
            raise TaskDefinitionError(f"Security(...): its scopes are those of a request, and {_NO_REQUEST}")
        call = item.dependency
        if call is None:
            call = typing.get_args(kind)[0] if metadata else kind
        return Marker(call, item.use_cache, getattr(item, "shared", False))
    return None


def _refuse_request(where: str, default: Any, kind: Any) -> None:
    """Refuse what only a request has: `Request` and the like as a type, `Header(...)` and the like as a marker."""
    arguments = typing.get_args(kind) if typing.get_origin(kind) is typing.Annotated else (kind,)
    for item in (default, *arguments):
        of = item if isinstance(item, type) else type(item)
        if f"{of.__module__}.".startswith(_OF_REQUESTS):
            raise TaskDefinitionError(f"{where} is a {of.__qualname__}, and {_NO_REQUEST}")


def _name(call: Any) -> str:
    return getattr(call, "__qualname__", None) or repr(call)
