"""The wish to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Stop:
    """The wish to stop: once with grace, a second time at once. `told` is called at the first."""

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Stop; asked again: without grace."""
        if self.asked.is_set():
            self.at_once.set()
        else:
            self._told()
        self.reason = self.reason or reason
        self.asked.set()
