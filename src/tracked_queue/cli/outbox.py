"""`outbox`: the table's SQL, a relay on its own, how far behind it is, and refused rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..app import TrackedQueue, producer_of
from ..errors import TrackedQueueError, UsageError
from ..worker import log_setup
from .common import JsonOption, acted, cli, console, fail, fields_of, guarded, load_app, print_json, span

if TYPE_CHECKING:
    from ..outbox import Outbox

T = TypeVar("T")

outbox_cli = typer.Typer(no_args_is_help=True, help="The transactional outbox: its SQL, a relay, how far behind it is.")
cli.add_typer(outbox_cli, name="outbox")

AppArgument = Annotated[str, typer.Argument(help="module:app, such as shop.jobs:app, whose outbox has a database.")]


def _outbox_of(app: TrackedQueue, path: str) -> Outbox:
    from ..outbox import Outbox

    found = [one for one in producer_of(app).definitions.hooks.companions if isinstance(one, Outbox)]
    if len(found) != 1:
        had = "no outbox with a database" if not found else f"{len(found)} outboxes"
        raise UsageError(f"{path} has {had}; make one where the app is defined: Outbox(app, database)")
    return found[0]


def _run(path: str, work: Callable[[Outbox], Coroutine[Any, Any, T]]) -> T:
    async def opened() -> T:
        app = load_app(path)
        outbox = _outbox_of(app, path)
        async with app, contextlib.aclosing(outbox):
            return await work(outbox)

    try:
        return asyncio.run(opened())
    except (TrackedQueueError, OSError):
        raise
    except Exception as error:  # of the database's driver
        raise fail(f"the database: {type(error).__qualname__}: {error}", 3) from None


@outbox_cli.command()
@guarded
def sql(
    dialect: Annotated[str, typer.Argument(help="postgresql, mysql, mariadb or sqlite.")],
) -> None:
    """Print the SQL that makes the table, for your migrations."""
    from ..outbox import ddl

    print(ddl(dialect), end="")


@outbox_cli.command()
@guarded
def relay(
    app: AppArgument,
    once: Annotated[bool, typer.Option("--once", help="Pass on what is committed now, and end.")] = False,
) -> None:
    """Pass rows on until Ctrl-C: where no worker does it, or beside them."""
    log_setup.set_up("auto", "info", everything=True)
    if once:
        acted("relay")
        console().print(f"{_run(app, lambda outbox: outbox.relay())} rows were passed on")
        return
    _run(app, lambda outbox: outbox.run_relay())


@outbox_cli.command()
@guarded
def status(app: AppArgument, json: JsonOption = False) -> None:
    """How many rows wait, the age of the oldest, and how many can't be passed on."""
    found = _run(app, lambda outbox: outbox.status())
    if json:
        print_json(fields_of(found))
        return
    oldest = f", the oldest for {span(found.oldest_s)}" if found.oldest_s is not None else ""
    console().print(f"{found.waiting} rows wait{oldest}; {found.refused} can't be passed on")


@outbox_cli.command()
@guarded
def retry(app: AppArgument) -> None:
    """Try the refused rows again, once what was wrong is mended."""
    acted("retry")
    _run(app, lambda outbox: outbox.retry())
    console().print("they will be tried again")
