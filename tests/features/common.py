"""What these tests share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tracked_queue import (
    Fixed,
    State,
    TrackedQueue,
)

QUICKLY = Fixed(0.01)


async def has_state(job: Any, state: State) -> bool:
    return await job.status() is state


async def is_older(job: Any, seconds: float) -> bool:
    queued_at = (await job.info()).queued_at
    return bool((datetime.now(UTC) - queued_at).total_seconds() > seconds)


def same_place(app: TrackedQueue) -> dict[str, Any]:
    return {"redis_url": app.settings.redis_url, "namespace": app.settings.namespace}
