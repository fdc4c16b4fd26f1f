"""The entry in INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig


class TrackedQueueConfig(AppConfig):
    """`manage.py tracked_queue`, system checks, and the admin's pages of jobs."""

    name = "tracked_queue.django"
    label = "tracked_queue"
    verbose_name = "Tracked queue"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, and let `shared_task` of Celery's interface declare tasks of the alias that says so."""
        from . import celery, checks

        checks.register()
        celery.connect()
