"""`django.tasks`, or on Django 5.2 the package `django-tasks`, which is the same under other names."""

from __future__ import annotations

from typing import Any

import asgiref
from django.core.exceptions import ImproperlyConfigured

from ..model.plain import base_type

try:
    from django.tasks import task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import (
        log_task_enqueued,
        log_task_finished,
        log_task_started,
        task_enqueued,
        task_finished,
        task_started,
    )
    from django.utils.json import normalize_json
except ImportError:
    try:
        from django_tasks import task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.signals import (
            log_task_enqueued,
            log_task_finished,
            log_task_started,
            task_enqueued,
            task_finished,
            task_started,
        )
        from django_tasks.utils import normalize_json
    except ImportError as error:
        raise ImproperlyConfigured(
            f"tracked_queue.django: Django before 6.0 needs a package for tasks: pip install 'django-tasks>=0.12' ({error})"
        ) from error

# ThreadSensitiveContext(executor=...).
LEAST_ASGIREF = (3, 13)
if tuple(int(part) for part in asgiref.__version__.split(".")[:2]) < LEAST_ASGIREF:
    raise ImproperlyConfigured(
        f"tracked_queue.django needs asgiref 3.13 or newer, and {asgiref.__version__} is installed: pip install -U asgiref"
    )


def normalized(value: Any) -> Any:
    """
    What Django's JSON makes of a value; enum members, as of `TextChoices`, and safe text, which that leaves, are plain too.

    Raises:
        TypeError, ValueError: Django's JSON doesn't know it.
    """
    return _plain(normalize_json(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {base_type(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else base_type(value)


__all__ = [
    "BaseTaskBackend", "InvalidTask", "Task", "TaskContext", "TaskError", "TaskResult", "TaskResultDoesNotExist",
    "TaskResultStatus", "log_task_enqueued", "log_task_finished", "log_task_started", "normalized", "task_backends",
    "task_enqueued", "task_finished", "task_started",
]  # fmt: skip
