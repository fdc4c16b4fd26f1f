"""
Write the reference pages from the code: settings, log events, scripts, keys, the command line.

With --check, say which pages are stale and exit 1.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api_page import api_page  # type: ignore[import-not-found]
from typer.core import TyperArgument
from typer.main import get_command

from tracked_queue import log
from tracked_queue.cli import commands
from tracked_queue.protocol.scripts import load_scripts, read_source
from tracked_queue.settings import PLAIN_NAMES, setting_default, setting_doc, setting_names

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by `make docs` from the code; change it there. -->\n\n"


def settings_page() -> str:
    plain = {setting: variable for variable, setting in PLAIN_NAMES.items()}
    rows = [
        f"| `{name}` | `TRACKED_QUEUE_{name.upper()}`"
        + (f", `{plain[name]}`" if name in plain else "")
        + f" | `{setting_default(name)!r}` | {setting_doc(name)} |"
        for name in setting_names()
    ]
    return (
        "# Settings\n\n"
        + MADE
        + "A setting can be given as a keyword of `TrackedQueue(...)`, as an option of the command line"
        " where a command has one (`--heartbeat-ttl 60`), or in the environment. An option wins over a keyword, a keyword"
        " over the environment, and a name with the prefix over a plain one. Times are in seconds, sizes in bytes."
        " `python -m tracked_queue config` prints every setting, its value and where it came from.\n\n"
        "| setting | environment | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "`heartbeat_ttl` must be at least three times `heartbeat_interval`, so that two lost beats lose no lease. An unknown"
        " `TRACKED_QUEUE_...` name is a warning and not an error: Kubernetes sets `TRACKED_QUEUE_PORT` and others beside a"
        " Service of that name.\n"
    )


def events_page() -> str:
    levels = re.compile(r"log\.(debug|info|warning|error)")
    rows = []
    for name, function in inspect.getmembers(log, inspect.isfunction):
        if function.__module__ != log.__name__ or name in ("add_job", "add_trace"):
            continue
        source = inspect.getsource(function)
        found = re.search(r'"(\w+\.[\w]+)"', source)
        event = found[1] if found else "job.retried, job.died, job.failed"
        fields = ", ".join(
            f"`{parameter}`" for parameter in inspect.signature(function).parameters if f"{parameter}=" in source
        )
        level = " or ".join(dict.fromkeys(levels.findall(source)))
        doc = " ".join((inspect.getdoc(function) or "").split())
        rows.append((event, f"| `{event}` | {level} | {fields} | {doc} |"))
    return (
        "# Log events\n\n"
        + MADE
        + "The command line logs to standard error: readable on a terminal, one JSON object a line when"
        " piped (`--log-format`). An application that runs a worker in its own process keeps its own structlog configuration;"
        " add `tracked_queue.log.add_job` to its processors to have `task`, `job_id`, `delivery` and `lease` on the lines that"
        " a job writes, and `tracked_queue.log.add_trace` for `trace_id` and `span_id`. Arguments and results are never logged.\n\n"
        "| event | level | fields | when |\n|---|---|---|---|\n" + "\n".join(row for _, row in sorted(rows)) + "\n"
    )


def scripts_page() -> str:
    parts = []
    for name in sorted(load_scripts()):
        head = read_source(name).split("-- include", 1)[0]
        lines = [line.removeprefix("--").removeprefix(" ") for line in head.rstrip().splitlines()]
        parts.append(f"## {name}\n\n```text\n" + "\n".join(lines) + "\n```\n")
    return (
        "# Scripts\n\n"
        + MADE
        + "The whole protocol. Each transition of a job is one Lua script, which reads everything that it"
        " will touch, decides, and only then writes; each is safe to run twice with the same arguments. Nothing else writes"
        " the keys of [the data model](keys.md), but `durable`.\n\n" + "\n".join(parts)
    )


def commands_page() -> str:
    parts = []
    for name, command in commands_of(get_command(commands.cli)):
        options: list[str] = []
        for parameter in command.params:
            if isinstance(parameter, TyperArgument):
                options.append(f"`{(parameter.metavar or parameter.name or '').strip('[].').upper()}`")
            elif not getattr(parameter, "hidden", False):
                long = max(parameter.opts, key=len)
                takes = "" if getattr(parameter, "is_flag", False) or long != "--app" else " MODULE:APP"
                options.append(f"`{long}{takes}`")
        parts.append(f"| `{name}` | {' '.join((command.help or '').split())} | {', '.join(options)} |")
    return (
        "# Command line\n\n"
        + MADE
        + "`python -m tracked_queue COMMAND`, or `tracked-queue COMMAND`. `COMMAND --help` says more of each"
        " option. Commands take their Redis and namespace from the environment, from `--redis-url` and `--namespace`, or from"
        " an application (`--app shop.jobs:app`). Exit codes: 0 well, 1 not done or not found, 2 wrong use or a server that"
        " can't be used, 3 no answer from Redis, 130 interrupted.\n\n"
        "| command | what it does | arguments and options |\n|---|---|---|\n" + "\n".join(parts) + "\n"
    )


def commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, those of groups too."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield before + name, command


PAGES = {
    "settings.md": settings_page,
    "log-events.md": events_page,
    "scripts.md": scripts_page,
    "commands.md": commands_page,
    "api.md": lambda: api_page(MADE),
}


def main() -> int:
    stale = []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        text, path = make(), FOLDER / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
    for name in stale:
        print(f"docs/reference/{name} is stale; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
