"""What the commands share: finding the app, options, output for people or programs, errors as one line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..app import TrackedQueue, connections_of
from ..errors import (
    SettingsError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
    UsageError,
    did_you_mean,
)
from ..model.checks import MAX_SECONDS
from ..model.plain import plain
from ..worker.exits import FAILED_EXIT, OUTPUT_EXIT, UNAVAILABLE_EXIT, USAGE_EXIT

cli = typer.Typer(
    name="tracked_queue",
    help="An asyncio job queue on Redis that does not lose jobs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
dead_cli = typer.Typer(no_args_is_help=True, help="Dead jobs: list, requeue, purge.")
cli.add_typer(dead_cli, name="dead")

T = TypeVar("T")

AGAIN_S = 0.3

AppOption = Annotated[str | None, typer.Option("--app", help="module:app whose settings and tasks to use.")]
UrlOption = Annotated[str | None, typer.Option("--redis-url", help="Default: REDIS_URL, else redis://localhost:6379.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", help="Prefix of the keys. Default: tq.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclasses.dataclass(frozen=True)
class Where:
    """The app that a command works on: the named one, or one that is made from settings alone."""

    named: AppOption = None
    redis_url: UrlOption = None
    namespace: NamespaceOption = None

    @functools.cached_property
    def app(self) -> TrackedQueue:
        """That app, with these settings. Raises UsageError."""
        app = load_app(self.named) if self.named else TrackedQueue()
        app.configure(redis_url=self.redis_url, namespace=self.namespace)
        return app


def console() -> Console:
    """Where results go; tables are plain and as wide as they need to be when piped."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=not sys.stdout.isatty())


def say(message: str) -> None:
    """One line to standard error; one that can't be written costs nothing else."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tracked_queue: {clean(message)}", file=sys.stderr)


def fail(message: str, code: int) -> typer.Exit:
    """Print one line and return the exit to raise."""
    say(message)
    return typer.Exit(code)


def clean(text: str) -> str:
    """Text from elsewhere made safe for a terminal: no control characters, so no escapes and no second line."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text.replace("\n", " | "))


def told(error: Exception) -> int:
    """Print an error as one line; returns its exit code: 2 for wrong use, 3 for no Redis, 1 for our other errors."""
    match error:
        case UsageError() | StoreRefusedError():
            code = USAGE_EXIT
        case StoreUnavailableError():
            code = UNAVAILABLE_EXIT
        case TrackedQueueError():
            code = FAILED_EXIT
        case _:
            with contextlib.suppress(OSError, ValueError):
                traceback.print_exception(error)
            return FAILED_EXIT
    say(str(error))
    return code


def guarded(function: Callable[..., T]) -> Callable[..., T]:
    """
    Turn our errors into one line and an exit code.

    A parameter whose type is a dataclass, such as `where: Where`, stands for its fields, each of which is an option.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            groups[name] = hint
            fields = get_type_hints(hint, include_extras=True)
            given = {field.name: (fields[field.name], field.default) for field in dataclasses.fields(hint)}
        elif name != "return":
            given = {name: (hint, inspect.signature(function).parameters[name].default)}
        else:
            continue
        parameters += [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for each, (kind, default) in given.items()
        ]

    @functools.wraps(function)
    def wrapper(**kwargs: Any) -> T:
        for name, kind in groups.items():
            kwargs[name] = kind(**{field.name: kwargs.pop(field.name) for field in dataclasses.fields(kind)})
        try:
            return function(**kwargs)
        except TrackedQueueError as error:
            raise typer.Exit(told(error)) from None
        except BrokenPipeError:
            raise typer.Exit(FAILED_EXIT) from None  # the reader of the output has closed it
        except OSError as error:
            what = "; the command's work was done, or is under way" if _acted else ""
            raise fail(f"the output could not be written: {error.strerror or error}{what}", OUTPUT_EXIT) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def load_app(path: str) -> TrackedQueue:
    """
    The app that `module:attribute` names; the current folder can be imported from, as with `python -m`.

    Raises:
        UsageError: It doesn't import, isn't there, or isn't a TrackedQueue; says why.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute or module_name.startswith(".") or "/" in module_name:
        raise UsageError(f"{path!r} doesn't name an app; write module:app, such as shop.jobs:app")
    with contextlib.suppress(OSError):  # the working folder was removed
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except SettingsError:
        raise  # it names its setting, and where the value came from
    except TrackedQueueError as error:
        raise UsageError(f"{module_name} can't be imported: {error}") from error
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f" ({place.filename}:{place.lineno})" if not place.filename.startswith("<frozen") else ""
        raise UsageError(f"{module_name} can't be imported: {type(error).__name__}: {error}{where}") from error
    found: Any = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise UsageError(f"{module_name} has no {attribute!r}") from None
    if not isinstance(found, TrackedQueue):
        raise UsageError(f"{path} is a {type(found).__name__} and not a TrackedQueue")
    return found


def check_known(app: TrackedQueue, named: str | None, kind: str, name: str | None) -> None:
    """
    Refuse a name that the given app doesn't have, as a typo; without an app any name passes.

    Raises:
        UsageError: Says which names there are.
    """
    known = app.tasks.queues() if kind == "queue" else [task.name for task in app.tasks]
    if named and name is not None and name not in known:
        raise UsageError(
            f"{kind} {name!r}: the app has none of that name; {did_you_mean(name, known)} (without --app, any will do)"
        )


def run(app: TrackedQueue, work: Callable[[TrackedQueue], Coroutine[Any, Any, T]], *, patient: bool = False) -> T:
    """Run a command's work with the app open; `patient` waits for Redis as long as an enqueue does."""

    async def opened() -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + app.settings.enqueue_timeout
        while True:
            try:
                await connections_of(app).find_shards()
                break
            except StoreUnavailableError:
                if not patient or loop.time() >= deadline:
                    raise
                await asyncio.sleep(AGAIN_S)
        async with app:
            return await work(app)

    return asyncio.run(opened())


_acted: list[str] = []


def acted(action: str) -> None:
    """Remember that this command has changed something, for what is said if its output can't be written."""
    _acted.append(action)


def fields_of(item: Any) -> dict[str, Any]:
    """A dataclass' fields, one level deep."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def seconds(text: str) -> float:
    """
    A duration from an option: 90, 90s, 15m, 2h, 7d.

    Raises:
        UsageError: It is not a duration.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    try:
        value = float(number) * unit
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        raise UsageError(f"{text!r} is not a duration of up to a century; write 90, 90s, 15m, 2h or 7d")
    return value


def span(value: float | None) -> str:
    """Seconds as people read them."""
    if value is None:
        return "-"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.0f}{unit}"
    return f"{value:.0f}s" if value >= 10 else f"{value:.1f}s"


def print_json(value: Any) -> None:
    """Strict JSON of dataclasses, times and plain data; what JSON lacks is as `plain` says."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """A table, or one line when there is nothing; plain columns when piped."""
    out = console()
    if not rows:
        out.print(Text(empty))
        return
    cells = [[clean("-" if cell is None else str(cell)) for cell in row] for row in rows]
    if not out.is_terminal:
        widths = [max(len(row[at]) for row in [list(columns), *cells]) for at in range(len(columns))]
        for row in [[column.upper() for column in columns], *cells]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)
