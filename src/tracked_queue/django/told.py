"""What travels with a job for Django, and times as Django's settings want them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from .api import InvalidTask

_EPOCH = datetime.fromtimestamp(0, UTC)
# The header that holds it.
HEADER = "django"


class Told:
    """When a job was enqueued, by the clock of the program that did it, and what `using()` said."""

    def __init__(self, headers: Mapping[str, Any]) -> None:
        found = headers.get(HEADER)
        fields = found if isinstance(found, dict) else {}
        self._at, self._after, priority = fields.get("at"), fields.get("after"), fields.get("priority")
        self._priority = priority if isinstance(priority, int) else 0

    @staticmethod
    def headers(task: Any, at: datetime) -> dict[str, Any]:
        """For the enqueue of a task at this time."""
        told: dict[str, Any] = {"at": ms_of(at)}
        if task.priority:
            told["priority"] = task.priority
        if task.run_after is not None:
            told["after"] = ms_of(task.run_after)
        return {HEADER: told}

    def task(self, task: Any, queue_name: str) -> Any:
        """The task as it was enqueued."""
        run_after = time_of(self._after)
        if (task.priority, task.queue_name, task.run_after) == (self._priority, queue_name, run_after):
            return task
        try:
            return task.using(priority=self._priority, queue_name=queue_name, run_after=run_after)
        except InvalidTask:  # its queue has left the settings since
            return task

    @property
    def enqueued_at(self) -> datetime | None:
        """As Django has times."""
        return time_of(self._at)


def now() -> datetime:
    """As Django has times, in whole milliseconds, which is what is stored."""
    found = time_of(ms_of(timezone.now()))
    assert found is not None
    return found


def aware(moment: datetime) -> datetime:
    """A time with a time zone; a naive one is in Django's."""
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


def ms_of(moment: datetime) -> int:
    """A time in whole ms since 1970, rounded down: else a job could have been enqueued after it started."""
    return (aware(moment) - _EPOCH) // timedelta(milliseconds=1)


def time_of(ms: Any) -> datetime | None:
    """A time of ms since 1970, as Django has times."""
    return as_django(datetime.fromtimestamp(ms / 1000, UTC)) if isinstance(ms, int) else None


def as_django(moment: datetime | None) -> datetime | None:
    """A time with a time zone; without USE_TZ a naive one in Django's time zone."""
    return moment if moment is None or settings.USE_TZ else timezone.make_naive(moment)
