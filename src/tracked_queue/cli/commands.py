"""All commands together, and the entry point."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from . import run

# isort: split
from . import look

# isort: split
from . import jobs

# isort: split
from . import top

# isort: split
from . import change, dashboard, dead, doctor, explain, metrics, migrate, outbox, probe, trace

# isort: split
from ..transport.endpoint import fill_standard_descriptors
from ..worker.lineage import take_path
from . import chaos
from .common import clean, cli

# Importing a module of commands registers them, in the order in which --help lists them.
__all__ = [
    "change", "chaos", "cli", "dashboard", "dead", "doctor", "explain", "jobs", "look", "main", "metrics", "migrate", "outbox",
    "probe", "run", "top", "trace",
]  # fmt: skip


def main(program: str = "tracked_queue") -> None:
    """Entry point of `python -m tracked_queue`, and of `manage.py tracked_queue`, which has another name."""
    take_path()
    _open_streams()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    cli(prog_name=program)


def _open_streams() -> None:
    """
    Make the standard streams usable: one that was closed is opened on the null device, so that no socket takes its
    number; and what a terminal can't show is written as an escape.
    """
    fill_standard_descriptors()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (for the life of the process)
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"tracked_queue: warning: {clean(str(message))}", file=sys.stderr)
