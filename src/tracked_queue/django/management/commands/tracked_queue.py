"""`manage.py tracked_queue`: the command line of tracked_queue for an alias of TASKS."""

from __future__ import annotations

import importlib.util
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ....cli.handover import hand_over
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
        hand_over(given, site.app, f"tracked_queue.django.workers:{alias}", PROGRAM, _reload)


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
