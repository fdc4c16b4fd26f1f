"""OPTIONS["CELERY"]: tasks written for Celery, and its beat schedule, in a Django project."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings

from tests.django.conftest import Worker
from tests.django.project.shop.celery_tasks import copy_note
from tests.django.project.shop.models import Note
from tracked_queue import JobNotFoundError
from tracked_queue.compat import celery as compat
from tracked_queue.django import celery, checks, queue
from tracked_queue.django.checks import look_at_tasks


@pytest.fixture(scope="module")
def celery_worker() -> Iterator[Worker]:
    running = Worker("celery")
    yield running
    running.stop()


def test_shared_tasks_wait_for_the_transaction_and_run(celery_worker: Worker) -> None:
    with transaction.atomic():
        note = Note.objects.create(text="first")
        result = copy_note.delay_on_commit(note.pk, "copied")
        with pytest.raises(JobNotFoundError):
            result.job.info_sync()
    assert result.get(timeout=20) == "first copied"
    assert copy_note.queue is queue("celery")


def test_the_beat_schedule_runs(celery_worker: Worker) -> None:
    until = time.monotonic() + 20
    while not Note.objects.filter(text="pulse").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_one_alias_has_them() -> None:
    both = {
        name: {"BACKEND": "tracked_queue.django.TrackedQueueBackend", "OPTIONS": {"CELERY": True}}
        for name in ("default", "other")
    }
    with override_settings(TASKS=both), pytest.raises(ImproperlyConfigured, match="default, other"):
        celery.connect()


def test_the_schedule_goes_by_django_s_time_zone() -> None:
    """As Celery's does, unless CELERY_TIMEZONE says another one."""
    alias = {"default": {"BACKEND": "tracked_queue.django.TrackedQueueBackend", "OPTIONS": {"CELERY": True}}}
    told: list[str] = []

    class Made:
        def __init__(self, queue: object, *, beat_schedule: object, timezone: str) -> None:
            told.append(timezone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compat, "Celery", Made)
        for settings in (
            {"TIME_ZONE": "America/New_York", "CELERY_TIMEZONE": None},
            {"TIME_ZONE": "America/New_York", "CELERY_TIMEZONE": "Europe/Paris"},
        ):
            with override_settings(TASKS=alias, **settings):
                celery.connect()
    assert told == ["America/New_York", "Europe/Paris"]


def test_check_deploy_sees_what_only_workers_would(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**settings.CELERY_BEAT_SCHEDULE, "gone": {"task": "shop.gone", "schedule": 5.0}}
    with override_settings(CELERY_BEAT_SCHEDULE=broken):
        assert [(one.id, one.obj) for one in look_at_tasks()] == [
            ("tracked_queue.E005", "CELERY_BEAT_SCHEDULE['gone']")
        ]
    assert look_at_tasks() == []
    monkeypatch.setattr(checks, "autodiscover_modules", lambda *names: 1 / 0)
    (found,) = look_at_tasks()
    assert found.id == "tracked_queue.E004" and "ZeroDivisionError" in found.msg
