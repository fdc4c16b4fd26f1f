"""Fixtures for pytest, found by its entry point: define `queue_app` in your conftest, and take `queue_kit` in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from typing import Any, TypeVar

import pytest

from .app import TrackedQueue
from .testing import Fake, QueueKit, fake

T = TypeVar("T")


@pytest.fixture
def queue_app() -> TrackedQueue:
    """Yours: override it with a fixture of this name that returns your app."""
    raise pytest.UsageError("define a fixture `queue_app` in conftest.py that returns your TrackedQueue")


@pytest.fixture
def fake_queue(queue_app: TrackedQueue) -> Iterator[Fake]:
    """Enqueues are recorded and none is stored."""
    with fake(queue_app) as recorded:
        yield recorded


@pytest.fixture
def queue_start() -> datetime | None:
    """What the kit's clock says at the beginning; override it in tests of schedules. None: now."""
    return None


@pytest.fixture
def queue_kit(queue_app: TrackedQueue, queue_start: datetime | None) -> Iterator[QueueKit]:
    """
    Use it as `async with queue_kit as kit:`; or, in a test that is no coroutine, `run_queue_test`.

    Until it is opened, the app uses no Redis at all: a test that forgets to open it never reaches the app's own queue.
    """
    kit = QueueKit(queue_app, queue_start)
    yield kit
    kit.close_unopened()


@pytest.fixture
def run_queue_test(queue_kit: QueueKit) -> Callable[[Callable[[QueueKit], Coroutine[Any, Any, T]]], T]:
    """Runs `async def check(kit)` with the kit open, in an event loop of its own."""

    def run(check: Callable[[QueueKit], Coroutine[Any, Any, T]]) -> T:
        async def opened() -> T:
            async with queue_kit as kit:
                return await check(kit)

        return asyncio.run(opened())

    return run
