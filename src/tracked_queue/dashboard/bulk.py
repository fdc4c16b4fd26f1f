"""Bulk actions, in the background of the dashboard's process: started, looked at, stopped."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ..errors import NotVisibleError, TrackedQueueError, UsageError
from ..operator.many import Course, ManyAction, Selection
from .desk import Desk, why

# How many are remembered, and how many run at once.
MOST_KEPT, MOST_RUNNING = 100, 10
# How long they get at the end to note what they did.
END_S = 1.5
BulkState = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """
    One bulk action: what is done to which jobs, how far it has got, and who asked for it. `refused` is how many jobs were left
    alone, by the reason; `expected` how many there were at its start, None if they were not counted to the end.
    """

    id: str
    namespace: str
    action: ManyAction
    which: Selection
    by: str
    rate: float | None
    limit: int | None
    expected: int | None
    state: BulkState
    done: int
    refused: dict[str, int]
    started_at: datetime
    ended_at: datetime | None
    error: str


@dataclass(slots=True)
class _Bulk:
    desk: Desk
    action: ManyAction
    which: Selection
    rate: float | None
    limit: int | None
    expected: int | None
    course: Course
    started_at: datetime
    state: BulkState = "running"
    ended_at: datetime | None = None
    error: str = ""
    task: asyncio.Task[None] | None = None


class Bulks:
    """The bulk actions of one dashboard process."""

    def __init__(self) -> None:
        self._all: dict[str, _Bulk] = {}

    def start(
        self,
        desk: Desk,
        action: ManyAction,
        which: Selection,
        *,
        rate: float | None,
        limit: int | None,
        expected: int | None,
    ) -> str:
        """
        Begin one; its id. Raises NotVisibleError, NotAllowedError where they may not, UsageError where too many run.
        """
        desk.must_many(action, which)
        if sum(one.state == "running" for one in self._all.values()) >= MOST_RUNNING:
            raise UsageError(f"{MOST_RUNNING} bulk actions run already; stop one, or wait for it")
        bulk = _Bulk(desk, action, which, rate, limit, expected, Course(), datetime.now(UTC))
        bulk_id = secrets.token_hex(6)
        self._all[bulk_id] = bulk
        ended = [one for one, about in self._all.items() if about.state != "running"]
        for old in ended[: max(0, len(self._all) - MOST_KEPT)]:
            del self._all[old]
        bulk.task = asyncio.create_task(_run(bulk), name=f"tracked_queue-bulk-{bulk_id}")
        return bulk_id

    def stop(self, desk: Desk, bulk_id: str) -> None:
        """Begin no further batch of it. Raises NotVisibleError, NotAllowedError."""
        bulk = self._one(desk, bulk_id)
        desk.must("stop", bulk.which.queue or "", bulk.which.task or "")
        bulk.course.stop()

    def get(self, desk: Desk, bulk_id: str) -> BulkReport:
        """One of them. Raises NotVisibleError."""
        return _report(bulk_id, self._one(desk, bulk_id))

    def list(self, desk: Desk) -> list[BulkReport]:
        """Those that they may see, the newest first."""
        seen = [(bulk_id, bulk) for bulk_id, bulk in self._all.items() if _is_seen(desk, bulk)]
        return [_report(bulk_id, bulk) for bulk_id, bulk in reversed(seen)]

    async def close(self) -> None:
        """End them all; what they did is noted."""
        tasks = [bulk.task for bulk in self._all.values() if bulk.task is not None and not bulk.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)

    def _one(self, desk: Desk, bulk_id: str) -> _Bulk:
        bulk = self._all.get(bulk_id)
        if bulk is None or not _is_seen(desk, bulk):
            raise NotVisibleError(
                "there is no such bulk action here: this process was restarted, or another replica runs it"
            )
        return bulk


def _is_seen(desk: Desk, bulk: _Bulk) -> bool:
    which = bulk.which
    return desk.namespace == bulk.desk.namespace and desk.may("view", which.queue or "", which.task or "")


async def _run(bulk: _Bulk) -> None:
    try:
        await bulk.desk.many(bulk.action, bulk.which, rate=bulk.rate, limit=bulk.limit, course=bulk.course)
        bulk.state = "stopped" if bulk.course.stopping else "done"
    except asyncio.CancelledError:
        bulk.state, bulk.error = "stopped", "the dashboard was ended"
        raise
    except TrackedQueueError as error:
        bulk.state, bulk.error = "failed", str(error)
    except Exception as error:
        bulk.state, bulk.error = "failed", f"{type(error).__qualname__}: {error}"
    finally:
        bulk.ended_at = datetime.now(UTC)
        bulk.task = None


def _report(bulk_id: str, bulk: _Bulk) -> BulkReport:
    return BulkReport(
        id=bulk_id,
        namespace=bulk.desk.namespace,
        action=bulk.action,
        which=bulk.which,
        by=bulk.desk.who.name,
        rate=bulk.rate,
        limit=bulk.limit,
        expected=bulk.expected,
        state=bulk.state,
        done=bulk.course.done,
        refused={why(word): count for word, count in bulk.course.refused.items()},
        started_at=bulk.started_at,
        ended_at=bulk.ended_at,
        error=bulk.error,
    )
