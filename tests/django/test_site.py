"""The command, the checks, the settings and the admin's pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from tests.django.conftest import ended
from tests.django.project.shop import tasks
from tests.django.versions import InvalidTask, TaskResultStatus, task, task_backends
from tracked_queue import UsageError
from tracked_queue.django import queue, tracked
from tracked_queue.django.sites import Site

BACKEND = "tracked_queue.django.TrackedQueueBackend"


# Settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"redis_ulr": "redis://x"}, "did you mean 'redis_url'"),
        ({"ENQUEUE": "later"}, "on_commit, now"),
        ({"heartbeat_ttl": -1}, "heartbeat_ttl"),
        ({"TASK_OPTIONS": {"max_attempt": 3}}, "max_attempts"),
        ({"TASK_OPTIONS": 3}, "TASK_OPTIONS"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as found:
        Site("shop", ["default"], options)
    assert "TASKS['shop']" in str(found.value)


def test_names_of_queues_that_stand_for_priorities_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"a\.high"):
        Site("shop", ["a.high"], {})


def test_wrong_options_of_a_task_are_named() -> None:
    with pytest.raises(UsageError, match="max_attempts"):
        tracked(max_attempt=3)
    with pytest.raises(UsageError, match="below @task"):
        tracked(max_attempts=3)(tasks.add)

    for options in ({"max_attempts": 0}, {"unique": "sometimes"}, {"retry": "x"}):
        function = type(tasks.add.func)(tasks.add.func.__code__, {}, f"wrong{options}")
        function.__module__, function.__qualname__ = __name__, f"wrong_{next(iter(options))}"
        with pytest.raises(InvalidTask, match=next(iter(options))):
            task()(tracked(**options)(function))


def test_keywords_of_the_decorator_where_django_hands_them_over() -> None:
    function = type(tasks.add.func)(tasks.add.func.__code__, {}, "keyed")
    function.__module__, function.__qualname__ = __name__, "keyed"
    try:
        made = task(max_attempts=7, timeout=3.0)(function)
    except TypeError:  # Django 6.0 knows no keywords of a backend
        import django

        assert (6, 0) <= django.VERSION[:2] < (6, 1)
        return
    options = task_backends["default"].site.app_task(made).task_options
    assert (options.max_attempts, options.timeout_s) == (7, 3.0)


def test_the_app_follows_changed_settings() -> None:
    before = queue()
    assert tasks.app is before
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"namespace": "changed"}}}):
        assert queue().settings.namespace == "changed"
        assert tasks.add.get_backend().site.app is queue()
        with pytest.raises(ImproperlyConfigured):
            queue("plain")
    assert queue() is before


def test_another_backend_has_no_queue() -> None:
    dummy = f"{task_backends.__module__.split('.')[0]}.tasks.backends.dummy.DummyBackend"
    dummy = dummy if dummy.startswith("django.") else "django_tasks.backends.dummy.DummyBackend"
    with (
        override_settings(TASKS={"default": {"BACKEND": dummy}}),
        pytest.raises(ImproperlyConfigured, match="DummyBackend"),
    ):
        queue()


# Checks


def test_checks_without_redis() -> None:
    assert [found for found in checks.run_checks() if found.id.startswith("tracked_queue")] == []
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"DATABASE": "none"}}}):
        assert [found.id for found in task_backends["default"].check()] == ["tracked_queue.E001"]
    with override_settings(INSTALLED_APPS=["django.contrib.contenttypes"]):
        assert [found.id for found in task_backends["default"].check()] == ["tracked_queue.W001"]


def test_checks_for_a_deployment_look_at_redis() -> None:
    found = {item.id for item in checks.run_checks(tags=["tracked_queue"], include_deployment_checks=True)}
    assert found <= {"tracked_queue.W003"}  # a server of tests keeps nothing on disk
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"redis_url": "redis://127.0.0.1:1"}}}):
        items = checks.run_checks(tags=["tracked_queue"], include_deployment_checks=True)
    assert [item.id for item in items] == ["tracked_queue.W002"]


# The command


def manage(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-W", "ignore", "-m", "django", "tracked_queue", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False, **more)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("queues",), "default"),
        (("--backend", "plain", "queues"), ""),
        (("dead", "list"), ""),
        (("config",), "namespace"),
        (("tasks",), ""),
        (("worker", "--help"), "manage.py tracked_queue worker"),
        (("list",), "worker"),
        (("migrate", "celery", "--from", os.environ["TEST_REDIS"], "--dry-run"), "0 jobs can be moved"),
        (("outbox", "sql", "postgresql"), "create table"),
        ((), "explain"),
    ],
)
def test_commands(words: tuple[str, ...], printed: str) -> None:
    tasks.add.using(run_after=None).enqueue(1)
    done = manage(*words)
    assert done.returncode == 0, done.stderr
    assert printed.lower() in done.stdout.lower()
    if words == ("config",):
        assert os.environ["TEST_NAMESPACE"] in done.stdout


def test_commands_that_are_wrong() -> None:
    unknown = manage("workr")
    assert unknown.returncode == 2 and "workr" in unknown.stderr and "Traceback" not in unknown.stderr
    alias = manage("--backend", "none", "queues")
    assert alias.returncode == 1 and "none" in alias.stderr and "Traceback" not in alias.stderr


def test_a_worker_of_the_command_runs_the_tasks(tmp_path: Path) -> None:
    """With a supervisor and its children, from a folder of its own, until SIGTERM."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    env["TEST_NAMESPACE"] += "command"
    program = """
import django; django.setup()
from tests.django.project.shop import tasks
for name in ("add", "add_later"):
    print(getattr(tasks, name).using(priority=5).enqueue(1).id)
"""
    ids = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    command = [sys.executable, "-m", "django", "tracked_queue", "worker", "--burst", "--processes", "2"]
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(command, env=env, cwd=tmp_path, stdout=log, stderr=log, timeout=60, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([*command[:5], "--no-reload"], env=env, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 40
        while b"instance.registered" not in (tmp_path / "log").read_bytes():
            assert time.monotonic() < until and worker.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    look = f"""
import django; django.setup()
from tests.django.versions import task_backends
for id in {ids!r}:
    print(task_backends["default"].get_result(id).return_value)
"""
    found = subprocess.run(
        [sys.executable, "-c", look], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.split() == ["2", "2"]


# The admin


@pytest.fixture
def users() -> Iterator[dict[str, Client]]:
    """Somebody with each set of rights, logged in."""
    made = {}
    for name, rights in {
        "nobody": (), "viewer": ("view_job",), "reader": ("view_job", "view_arguments"), "changer": ("view_job", "change_job"),
    }.items():  # fmt: skip
        user = User.objects.create_user(name, password="x", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=rights))
        made[name] = Client()
        made[name].force_login(user)
    yield made
    LogEntry.objects.all().delete()
    User.objects.all().delete()


LIST = "admin:tracked_queue_job_changelist"


def dead_job() -> Any:
    result = ended(tasks.fails.enqueue())
    assert result.status == TaskResultStatus.FAILED
    return result


@pytest.mark.usefixtures("worker")
def test_the_admin_shows_jobs_to_those_who_may(users: dict[str, Client]) -> None:
    dead, fine = dead_job(), ended(tasks.add.enqueue(41))
    assert users["nobody"].get(reverse(LIST)).status_code == 403
    page = users["viewer"].get(reverse(LIST) + "?state=dead")
    assert page.status_code == 200 and dead.id in page.content.decode() and "ValueError" in page.content.decode()
    assert "Queue again" not in page.content.decode()
    assert "Queue again" in users["changer"].get(reverse(LIST)).content.decode()
    for state in ("queued", "active", "scheduled", "succeeded", "nonsense"):
        assert users["viewer"].get(reverse(LIST), {"state": state}).status_code == 200
    assert "did you mean" in users["viewer"].get(reverse(LIST), {"state": "ded"}).content.decode()
    found = users["viewer"].get(reverse(LIST), {"id": fine.id}, follow=True)
    assert found.status_code == 200 and "view_arguments" in found.content.decode()
    assert "41" not in found.content.decode().split("Arguments")[1][:200]
    assert (
        "41"
        in users["reader"].get(reverse(LIST), {"id": fine.id}, follow=True).content.decode().split("Arguments")[1][:200]
    )
    assert "kept for a while" in users["viewer"].get(reverse(LIST), {"id": "none"}, follow=True).content.decode()
    assert users["viewer"].get(reverse(LIST), {"backend": "none"}).status_code == 404
    assert "in fails" in users["viewer"].get(reverse(LIST), {"id": dead.id}, follow=True).content.decode()


@pytest.mark.usefixtures("worker")
def test_the_admin_requeues_and_cancels_for_those_who_may(users: dict[str, Client]) -> None:
    dead, act = dead_job(), reverse("admin:tracked_queue_job_act")
    assert users["viewer"].post(act, {"action": "requeue", "id": [dead.id]}).status_code == 403
    assert users["changer"].get(act).status_code == 403
    done = users["changer"].post(act, {"action": "requeue", "id": [dead.id, "none"], "state": "dead"}, follow=True)
    assert "Queued again: 1 of 2" in done.content.decode() and "not there any more" in done.content.decode()
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.user.username) == (dead.id, "changer")
    waiting = tasks.add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1)
    done = users["changer"].post(act, {"action": "cancel", "id": [waiting.id]}, follow=True)
    assert "1 of 1" in done.content.decode()
    waiting.refresh()
    assert waiting.status == TaskResultStatus.FAILED
    assert waiting.errors[0].exception_class.__name__ == "JobCancelledError"
    for wrong in ({"action": "requeue"}, {"id": ["x"]}, {"action": "purge", "id": ["x"]}):
        assert users["changer"].post(act, wrong, follow=True).status_code == 200
    # Another site can't act for somebody who is logged in.
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="changer"))
    assert strict.post(act, {"action": "requeue", "id": [dead.id]}).status_code == 403


def test_the_migrations_are_up_to_date() -> None:
    from django.core.management import call_command

    call_command("makemigrations", "tracked_queue", check=True, dry_run=True, verbosity=0)


def test_the_admin_s_model_is_nothing_for_dumpdata() -> None:
    from io import StringIO

    from django.core.management import call_command

    for options in ({}, {"use_base_manager": True}):
        out = StringIO()
        call_command("dumpdata", "tracked_queue", stdout=out, **options)
        assert out.getvalue().strip() == "[]"


def test_two_aliases_of_one_place_are_refused() -> None:
    same = {"BACKEND": BACKEND, "OPTIONS": {"namespace": "both"}}
    with override_settings(TASKS={"default": same, "other": same}):
        assert [found.id for found in task_backends["other"].check()] == ["tracked_queue.E003"]


@pytest.mark.usefixtures("worker")
def test_the_admin_finds_jobs_by_odd_ids_and_links(users: dict[str, Client]) -> None:
    job = queue("plain").options(id="order:12_a", queue="nobody").enqueue_sync("x")
    for id in (job.id, "order_3A12_5Fa"):
        page = users["viewer"].get(reverse("admin:tracked_queue_job_change", args=[id]))
        assert page.status_code == 200 and "order:12_a" in page.content.decode()
    assert users["viewer"].get(reverse(LIST), {"id": "a\nb"}).status_code == 200
    long = queue("plain").options(id="x" * 256, queue="nobody").enqueue_sync("x")
    act = reverse("admin:tracked_queue_job_act") + "?backend=plain"
    done = users["changer"].post(act, {"action": "cancel", "id": [long.id]}, follow=True)
    assert done.status_code == 200 and LogEntry.objects.count() == 1
