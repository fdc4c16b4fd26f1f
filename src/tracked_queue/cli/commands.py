"""All commands together, and the entry point."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from . import run

# isort: split
from . import look

# isort: split
from . import change, dead, doctor, probe

# isort: split
from ..worker.lineage import take_path
from . import chaos
from .common import clean, cli

# Importing a module of commands registers them, in the order in which --help lists them.
__all__ = ["change", "chaos", "dead", "doctor", "look", "main", "probe", "run"]


def main() -> None:
    """Entry point of `python -m tracked_queue`."""
    take_path()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    cli(prog_name="tracked_queue")


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"tracked_queue: warning: {clean(str(message))}", file=sys.stderr)
