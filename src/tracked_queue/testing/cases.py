"""For unittest: a test case with the kit open around each test."""

from __future__ import annotations

import unittest
from datetime import datetime
from typing import ClassVar

from ..app import TrackedQueue
from ..errors import UsageError
from .kit import QueueKit


class QueueTestCase(unittest.IsolatedAsyncioTestCase):
    """
    Each test has `self.kit`, open, of the app that the class names: `queue_app = app`.

    A class that has an `asyncSetUp` of its own calls `await super().asyncSetUp()` first.
    """

    queue_app: ClassVar[TrackedQueue | None] = None
    queue_start: ClassVar[datetime | None] = None
    kit: QueueKit

    async def asyncSetUp(self) -> None:
        """Open the kit."""
        await super().asyncSetUp()
        if self.queue_app is None:
            raise UsageError(f"{type(self).__qualname__}: name your app: queue_app = app")
        self.kit = await self.enterAsyncContext(QueueKit(self.queue_app, self.queue_start))
