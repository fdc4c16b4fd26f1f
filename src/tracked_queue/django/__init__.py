"""
Django: a backend for `django.tasks`, `manage.py tracked_queue`, the admin, and `queue()` for tasks with all options.

    INSTALLED_APPS = [..., "tracked_queue.django"]
    TASKS = {"default": {"BACKEND": "tracked_queue.django.TrackedQueueBackend", "OPTIONS": {"redis_url": "redis://..."}}}

Source: docs/how-to/django.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import TrackedQueueBackend
    from .declare import TrackedTask, tracked
    from .sites import queue

__all__ = ["TrackedQueueBackend", "TrackedTask", "queue", "tracked"]

# Found at their first use: INSTALLED_APPS imports this package before Django's settings may be read.
_LATER = {"TrackedQueueBackend": "backend", "TrackedTask": "declare", "queue": "sites", "tracked": "declare"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)
