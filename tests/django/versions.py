"""Django's tasks under one name: from Django itself, or from the package for 5.2."""

from __future__ import annotations

try:
    from django.tasks import default_task_backend, task, task_backends
    from django.tasks.base import TaskResultStatus
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ImportError:
    from django_tasks import default_task_backend, task, task_backends
    from django_tasks.base import TaskResultStatus
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
    from django_tasks.signals import task_enqueued, task_finished, task_started

__all__ = [
    "InvalidTask", "TaskResultDoesNotExist", "TaskResultMismatch", "TaskResultStatus", "default_task_backend", "task",
    "task_backends", "task_enqueued", "task_finished", "task_started",
]  # fmt: skip
