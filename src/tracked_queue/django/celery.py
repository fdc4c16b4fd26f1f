"""Celery's interface in a Django project: OPTIONS has "CELERY": True in the alias whose tasks `shared_task` declares."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..errors import UsageError


def connect() -> None:
    """
    Give the shared tasks to the app of the alias that says "CELERY", with the entries of CELERY_BEAT_SCHEDULE.

    Raises:
        ImproperlyConfigured: Two aliases say so, or CELERY_BEAT_SCHEDULE can't be read.
    """
    wanted = [
        alias for alias, params in getattr(settings, "TASKS", {}).items() if params.get("OPTIONS", {}).get("CELERY")
    ]
    if not wanted:
        return
    if len(wanted) > 1:
        raise ImproperlyConfigured(f"TASKS: CELERY can be True in one alias, and {', '.join(wanted)} say so")
    from ..compat.celery import Celery
    from .sites import site

    zone = getattr(settings, "CELERY_TIMEZONE", None) or settings.TIME_ZONE or "UTC"  # as Celery does
    try:
        Celery(site(wanted[0]).app, beat_schedule=getattr(settings, "CELERY_BEAT_SCHEDULE", None), timezone=str(zone))
    except UsageError as error:
        raise ImproperlyConfigured(f"CELERY_BEAT_SCHEDULE: {error}") from error
