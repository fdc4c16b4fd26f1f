"""When a worker process is replaced: after `max_jobs` jobs, or above `max_memory` bytes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..settings import Settings

LOOK_S = 1.0


async def share_done(settings: Settings, ran: Callable[[], int]) -> str:
    """Wait until `max_jobs` or `max_memory` is reached; says which, and by how much. `ran` counts the jobs so far."""
    while True:
        await asyncio.sleep(LOOK_S)
        if settings.max_jobs and (jobs := ran()) >= settings.max_jobs:
            return f"max_jobs: {jobs} of {settings.max_jobs}"
        if settings.max_memory and (used := resident_bytes()) >= settings.max_memory:
            return f"max_memory: {used} of {settings.max_memory} bytes"


def resident_bytes() -> int:
    """What this process has in memory; without /proc the largest that it has been."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # not on Windows, where no worker runs

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
