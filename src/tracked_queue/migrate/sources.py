"""The queues that jobs can be moved from, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis.asyncio

from ..errors import SettingsError, UsageError, did_you_mean
from .arq import Arq
from .celery import Celery
from .dramatiq import Dramatiq
from .found import Source
from .huey import Huey
from .rq import Rq
from .saq import Saq
from .taskiq import Taskiq

SOURCES: dict[str, Callable[[Any, str, bool], Source]] = {
    "celery": Celery,
    "rq": Rq,
    "arq": Arq,
    "dramatiq": Dramatiq,
    "saq": Saq,
    "huey": Huey,
    "taskiq": Taskiq,
}


def source_of(name: str, url: str, prefix: str = "", stopped: bool = False) -> Source:
    """
    Another queue's Redis.

    Args:
        name: One of SOURCES.
        url: Where it is.
        prefix: Celery's `global_keyprefix`, dramatiq's `namespace`, or the prefix of taskiq's schedules.
        stopped: None of its workers runs: what they held may be taken.

    Raises:
        UsageError: There is no such source.
        SettingsError: The URL can't be read.
    """
    if name not in SOURCES:
        raise UsageError(f"migrate: {name!r}: it can be one of {', '.join(SOURCES)}; {did_you_mean(name, SOURCES)}")
    try:
        client = redis.asyncio.Redis.from_url(url)
    except ValueError as error:
        raise SettingsError("--from", str(error)) from error
    return SOURCES[name](client, prefix, stopped)
