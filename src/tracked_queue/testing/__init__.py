"""
Testing code that uses tracked_queue: run what was enqueued, or only record it, on a real embedded Redis and a clock of the
test's own.

pytest finds the fixture `queue_kit` by itself (see pytest_plugin.py); unittest has `QueueTestCase`; in other runners use
`QueueKit` as it does.

Source: docs/how-to/testing.md.
"""

from __future__ import annotations

from .cases import QueueTestCase
from .crashes import Crash
from .inlined import inline
from .kit import QueueKit
from .kits import QueueKits
from .records import Fake, Recorded, Within, fake, including
from .server import embedded_url

__all__ = [
    "Crash", "Fake", "QueueKit", "QueueKits", "QueueTestCase", "Recorded", "Within", "embedded_url", "fake", "including",
    "inline",
]  # fmt: skip
