"""
Code that was written for Celery, over tracked_queue: change the import, and rewrite the tasks one by one later.

What has no counterpart is refused with what to do instead; `tracked-queue migrate scan` finds it before.

Source: docs/how-to/celery.md.
"""

from __future__ import annotations

from ...errors import MaxRetriesExceededError
from .app import Celery, shared_task
from .beat import crontab
from .bound import BoundTask, Request
from .canvas import Signature, chain, chord, group, signature
from .results import AsyncResult, GroupResult
from .tasks import CeleryTask

__all__ = [
    "AsyncResult", "BoundTask", "Celery", "CeleryTask", "GroupResult", "MaxRetriesExceededError", "Request", "Signature",
    "chain", "chord", "crontab", "group", "shared_task", "signature",
]  # fmt: skip
