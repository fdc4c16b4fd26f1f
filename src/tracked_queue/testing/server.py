"""The Redis of a test run."""

from __future__ import annotations

import itertools
import tempfile
from functools import cache
from typing import Any

from ..transport.embedded import start_embedded

# What is different for each kit, crash and job of a process.
number = itertools.count()


@cache
def embedded_url() -> str:
    """The Redis of this process' tests: one embedded server in a temporary folder, started once; it ends with the process."""
    folder = tempfile.mkdtemp(prefix="tracked_queue-test-")
    server = start_embedded(f"embedded://{folder}")
    _servers.append(server)
    return server.url


_servers: list[Any] = []  # kept open for the life of the process
