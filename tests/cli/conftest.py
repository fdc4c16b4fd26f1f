"""The command line as a program, and scripts that bring jobs into states for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Scripts
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.scripts import load_scripts

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(server: RedisServer, namespace: str) -> Cli:
    def run(*arguments: str, exit: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tracked_queue", *arguments],
            env={**os.environ, "REDIS_URL": server.url, "PROCESSING_NS": namespace, **env},
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == exit, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def store(server: RedisServer, namespace: str) -> Iterator[Scripts]:
    """The real clock's scripts, to bring jobs into states."""
    scripts = Scripts(server.url, namespace, load_scripts())
    yield scripts
    scripts.close()
