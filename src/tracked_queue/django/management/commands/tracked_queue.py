"""`manage.py tracked_queue`: the command line of tracked_queue for an alias of TASKS."""

from __future__ import annotations

import importlib.util
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Iterator
from typing import Any

import typer.main
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ....cli import commands
from ... import sites

PROGRAM = "manage.py tracked_queue"


class Command(BaseCommand):
    """Hands over to our own command line, which works on the app of the alias."""

    help = (
        "Runs workers for Django's tasks, and shows queues and jobs. `manage.py tracked_queue list` names the commands."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The alias; all from the command's name on is our command line's."""
        parser.add_argument("--backend", default="default", help="The alias in TASKS (default: default).")
        parser.add_argument("arguments", nargs=REMAINDER, metavar="command ...", help="worker, queues, dead list, ...")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command, and end with its exit code."""
        given: list[str] = [*args, *options["arguments"]]
        alias: str = options["backend"]
        try:
            site = sites.site(alias)
        except (ImproperlyConfigured, KeyError) as error:
            raise CommandError(str(error)) from error
        if given in ([], ["list"]):
            given = ["--help"]
        sys.argv = ["tracked-queue", *with_app(given, site, f"tracked_queue.django.workers:{alias}")]
        commands.main(PROGRAM)


def with_app(given: list[str], site: sites.Site, path: str) -> list[str]:
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
        return [*name, path, *_reload(rest)]
    if "app" in takes:
        return [*name, path, *rest]
    if "--redis-url" in takes:
        own = {"--redis-url": site.app.settings.redis_url, "--namespace": site.app.settings.namespace}
        return [*name, *(part for option, value in own.items() if option in takes for part in (option, value)), *rest]
    return given


def _words(given: list[str], group: Any) -> Iterator[str]:
    """The command's name, which has two words in a group of commands."""
    for word in given:
        if not hasattr(group, "commands"):
            return
        yield word
        group = group.commands.get(word)


def _reload(given: list[str]) -> list[str]:
    """With DEBUG a worker restarts when the code changes, as `runserver` does."""
    if "--no-reload" in given:
        return [word for word in given if word != "--no-reload"]
    if (
        settings.DEBUG
        and not {"--reload", "--burst", "--supervised"} & set(given)
        and importlib.util.find_spec("watchfiles")
    ):
        return [*given, "--reload"]
    return given
