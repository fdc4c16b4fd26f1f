"""Our command line as part of another one, which knows the app: `manage.py tracked_queue`, `litestar queue`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer.main

from ..app import TrackedQueue
from . import commands


def hand_over(
    given: list[str], app: TrackedQueue, path: str, program: str, worker: Callable[[list[str]], list[str]] = list
) -> None:
    """
    Run a command on an app, and end with its exit code.

    Args:
        given: The words after the program's name.
        path: Where the app can be imported from, module:app.
        program: How the program is called, for the help.
        worker: What the arguments of `worker` become.
    """
    if given in ([], ["list"]):
        given = ["--help"]
    sys.argv = ["tracked-queue", *with_app(given, app, path, worker)]
    commands.main(program)


def with_app(
    given: list[str], app: TrackedQueue, path: str, worker: Callable[[list[str]], list[str]] = list
) -> list[str]:
    """The same command for this app, in whichever way the command takes one."""
    chosen: Any = typer.main.get_command(commands.cli)
    words = list(_words(given, chosen))
    for word in words:
        chosen = chosen.commands.get(word) if hasattr(chosen, "commands") else chosen
    if not words or chosen is None or hasattr(chosen, "commands") or "--help" in given:
        return given
    name, rest = given[: len(words)], given[len(words) :]
    takes = {option: parameter for parameter in chosen.params for option in parameter.opts}
    if "--app" in takes:
        return [*name, "--app", path, *rest]
    if name == ["worker"]:
        return [*name, path, *worker(rest)]
    if "app" in takes:
        return [*name, path, *rest]
    if "--redis-url" in takes:
        own = {"--redis-url": app.settings.redis_url, "--namespace": app.settings.namespace}
        return [*name, *(part for option, value in own.items() if option in takes for part in (option, value)), *rest]
    return given


def _words(given: list[str], group: Any) -> Iterator[str]:
    """The command's name, which has two words in a group of commands."""
    for word in given:
        if not hasattr(group, "commands"):
            return
        yield word
        group = group.commands.get(word)
