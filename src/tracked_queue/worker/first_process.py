"""
SIGTERM for a worker that is the first process of a container, from its first import on.

The kernel gives such a process no signal that it has no handler for: one that comes while Python imports this package would be
lost, and the container be killed without grace later. Nothing runs yet, so the process just ends. The worker's own handlers
take the place of this one (cli/run.py).
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _is_our_command() -> bool:
    """`python -m tracked_queue ...` or `tracked-queue ...`; another program's signals are its own."""
    words = sys.orig_argv
    as_module = any(pair == ("-m", "tracked_queue") for pair in itertools.pairwise(words))
    return as_module or Path(sys.argv[0]).name == "tracked-queue"


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


if os.getpid() == 1 and _is_our_command():
    signal.signal(signal.SIGTERM, _end)
