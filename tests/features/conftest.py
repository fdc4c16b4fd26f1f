"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.features.common import same_place
from tracked_queue import TrackedQueue


@pytest.fixture
async def elsewhere(app: TrackedQueue) -> AsyncIterator[TrackedQueue]:
    """A producer of the same queues without the tasks' code."""
    async with TrackedQueue(**same_place(app)) as producer:
        yield producer
