"""Servers that a test may break, and workers that run through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.conftest import notes, queue, start
from tracked_queue.chaos.server import RedisServer

__all__ = ["notes", "queue", "start"]


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, on an append-only file."""
    running = RedisServer(appendonly=True)
    yield running
    running.close()
