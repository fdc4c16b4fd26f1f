"""What Django documents of a task backend: held by ours on every version."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.db import models
from django.test import override_settings
from django.utils import timezone
from django.utils.safestring import mark_safe

from tests.django.conftest import ended, run
from tests.django.project.shop import tasks
from tests.django.versions import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    default_task_backend,
    task,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from tracked_queue import ArgumentError, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.django import queue, tracked

pytestmark = pytest.mark.usefixtures("worker")


def test_what_it_supports() -> None:
    backend = default_task_backend
    assert backend.supports_defer and backend.supports_async_task and backend.supports_get_result
    assert backend.supports_priority


@pytest.mark.parametrize("name", ["add", "add_later"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_runs(name: str, is_async: bool) -> None:
    one = getattr(tasks, name)
    result = run(one.aenqueue(2, b=3)) if is_async else one.enqueue(2, b=3)
    assert result.status == TaskResultStatus.READY and not result.is_finished
    assert (result.started_at, result.finished_at, result.last_attempted_at) == (None, None, None)
    assert (result.attempts, result.args, result.kwargs, result.backend) == (0, [2], {"b": 3}, "default")
    assert result.enqueued_at is not None and len(result.id) <= 64
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    ended(result)
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert (result.return_value, result.attempts, result.errors) == (5, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.started_at == result.last_attempted_at
    assert len(result.worker_ids) == 1


def test_a_result_is_found_by_its_id() -> None:
    result = tasks.add.enqueue(1)
    ended(result)
    found = tasks.add.get_result(result.id)
    assert found == result
    assert run(tasks.add.aget_result(result.id)) == result
    assert default_task_backend.get_result(result.id) == result
    with pytest.raises(TaskResultMismatch):
        tasks.echo.get_result(result.id)
    run(result.arefresh())
    assert result.return_value == 2


@pytest.mark.parametrize("id", ["", "none-such", "x" * 2000, "line\nbreak", "\x00", "🙂"])
def test_an_id_that_nobody_has(id: str) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(id)
    with pytest.raises(TaskResultDoesNotExist):
        run(default_task_backend.aget_result(id))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fails", ValueError), ("fails_later", ValueError), ("exits", SystemExit), ("fails_oddly", tasks.Odd)],
)
def test_a_task_that_raises_has_failed(name: str, kind: type[BaseException]) -> None:
    result = ended(getattr(tasks, name).enqueue())
    assert result.status == TaskResultStatus.FAILED
    assert result.attempts == 1 and result.started_at is not None and result.finished_at is not None
    (error,) = result.errors
    assert error.exception_class is kind
    assert error.traceback.splitlines()[-1].startswith(kind.__name__ if kind is not tasks.Odd else "tests.django")
    assert "in " + name in error.traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_value_that_is_no_json_is_a_failure() -> None:
    result = ended(tasks.returns_no_json.enqueue())
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is TypeError


def test_arguments_are_plain_json() -> None:
    result = tasks.echo.enqueue((1, 2), b"text", key={"a": (3,)})
    assert (result.args, result.kwargs) == ([[1, 2], "text"], {"key": {"a": [3]}})
    assert ended(result).return_value == [[[1, 2], "text"], {"key": {"a": [3]}}]
    for wrong in (datetime.now(), object(), {1, 2}):
        with pytest.raises(TypeError):
            tasks.echo.enqueue(wrong)
    with pytest.raises(ValueError):
        tasks.echo.enqueue(b"\xff")


def test_arguments_that_do_not_fit_are_refused_at_once() -> None:
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"c": 1}), ((1,), {"a": 1})):
        with pytest.raises(InvalidTask, match="add"):
            tasks.add.enqueue(*args, **kwargs)


def test_a_path_that_is_no_task_is_not_touched() -> None:
    app = queue()
    job = app.options(queue="nobody").enqueue_sync("os.system", "true")
    with pytest.raises(SuspiciousOperation):
        default_task_backend.get_result(job.id)
    gone = app.options(queue="nobody").enqueue_sync("no.such.module.task")
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(gone.id)
    own = tasks.typed.enqueue_sync(1)
    with pytest.raises(TaskResultDoesNotExist, match="not of django.tasks"):
        default_task_backend.get_result(own.id)


def test_a_deferred_task_waits() -> None:
    soon = timezone.now() + timedelta(seconds=0.4)
    result = tasks.add.using(run_after=soon).enqueue(1)
    assert result.task.run_after == soon
    assert default_task_backend.get_result(result.id).status == TaskResultStatus.READY
    assert ended(result).finished_at >= soon - timedelta(milliseconds=1)


def test_what_is_refused_at_the_definition() -> None:
    def nested() -> None: ...

    async def later() -> None: ...

    with pytest.raises(InvalidTask):
        task()(nested)
    with pytest.raises(InvalidTask):
        task()(lambda: None)
    for wrong in ({"priority": 101}, {"priority": -101}, {"priority": 1.5}, {"queue_name": "none"}):
        with pytest.raises(InvalidTask):
            tasks.add.using(**wrong)
    with pytest.raises(InvalidTask):
        task(takes_context=True)(tasks.add.func)
    naive = datetime.now() if timezone.is_aware(timezone.now()) else None
    if naive is not None:
        with pytest.raises(InvalidTask):
            tasks.add.using(run_after=naive)


def test_a_queue_that_the_settings_do_not_name_may_be_used_where_they_name_none() -> None:
    other = tasks.twice.using(queue_name="whatever")
    assert other.queue_name == "whatever"
    with pytest.raises(InvalidTask, match="priority"):
        tasks.twice.using(queue_name="a.high")


@pytest.mark.parametrize("priority", [-100, -1, 0, 1, 100])
def test_priorities_are_kept(priority: int) -> None:
    result = ended(tasks.attempts.using(priority=priority, queue_name="mail").enqueue())
    assert result.return_value["priority"] == priority
    assert result.return_value["queue"] == "mail"
    assert default_task_backend.get_result(result.id) == result
    assert result.task.priority == priority and result.task.queue_name == "mail"


def test_the_context_says_what_runs() -> None:
    result = ended(tasks.attempts.enqueue("hello"))
    found = result.return_value
    assert (found["attempt"], found["id"], found["status"], found["args"]) == (1, result.id, "RUNNING", ["hello"])
    assert found["enqueued"]
    assert ended(tasks.attempts_later.enqueue()).return_value == 1


class Heard:
    """What the signals said, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, Any]] = []
        self._receivers = []
        for name, signal in (("enqueued", task_enqueued), ("started", task_started), ("finished", task_finished)):

            def receiver(*, sender: Any, task_result: Any, name: str = name, **_: Any) -> None:
                assert sender is type(task_backends["default"])
                self.heard.append((name, task_result.id, str(task_result.status)))

            signal.connect(receiver)
            self._receivers.append((signal, receiver))

    def of(self, id: str) -> list[tuple[str, str]]:
        return [(name, status) for name, found, status in self.heard if found == id]

    def close(self) -> None:
        for signal, receiver in self._receivers:
            signal.disconnect(receiver)


@pytest.mark.parametrize("name", ["add", "add_later", "fails", "fails_later"])
def test_signals(name: str) -> None:
    heard = Heard()
    try:
        result = ended(getattr(tasks, name).enqueue(*([1] if name.startswith("add") else [])))
        end = "FAILED" if name.startswith("fails") else "SUCCESSFUL"
        # A worker may have begun before the enqueue has told of itself.
        found = heard.of(result.id)
        assert sorted(found) == [("enqueued", "READY"), ("finished", end), ("started", "RUNNING")]
        assert found.index(("started", "RUNNING")) < found.index(("finished", end))
    finally:
        heard.close()


@pytest.mark.parametrize("name", ["fails", "fails_later", "add", "add_later"])
def test_log_lines(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="django.tasks"), caplog.at_level(logging.DEBUG, logger="django_tasks"):
        result = ended(getattr(tasks, name).enqueue(*([1] if name.startswith("add") else [])))
    lines = [record for record in caplog.records if result.id in record.getMessage()]
    texts = [record.getMessage() for record in lines]
    assert (
        len(texts) == 3 and sum("enqueued" in line for line in texts) == sum("RUNNING" in line for line in texts) == 1
    )
    last = lines[2] if "state" in texts[2] else lines[1]
    assert ("FAILED" if name.startswith("fails") else "SUCCESSFUL") in last.getMessage()
    assert not any("NoneType" in (record.exc_text or "") + record.getMessage() for record in lines)
    assert bool(last.exc_info) is name.startswith("fails")
    assert last.levelno == (logging.ERROR if name.startswith("fails") else logging.INFO)


def test_retries_are_one_result() -> None:
    heard = Heard()
    try:
        result = ended(tasks.third_time_lucky.enqueue("retries"))
    finally:
        heard.close()
    assert (result.return_value, result.attempts, len(result.worker_ids)) == (3, 3, 3)
    assert [error.exception_class for error in result.errors] == [LookupError, LookupError]
    assert result.started_at <= result.last_attempted_at <= result.finished_at
    # Each run starts; the end is told once.
    names = [name for name, _ in heard.of(result.id)]
    assert sorted(names) == ["enqueued", "finished", "started", "started", "started"] and names[-1] == "finished"


def test_options_for_all_tasks_of_a_backend() -> None:
    result = ended(tasks.twice.enqueue("of a backend"))
    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 2)
    assert len(result.errors) == 2


def test_a_backend_for_each_thread_and_one_app() -> None:
    async def other() -> Any:
        return task_backends["default"]

    backend = run(other())
    assert backend.site is task_backends["default"].site
    assert queue() is backend.site.app


def test_higher_priorities_run_first() -> None:
    backend = "tracked_queue.django.TrackedQueueBackend"
    options = {"redis_url": os.environ["TEST_REDIS"], "namespace": f"prio{os.getpid()}", "concurrency": 1, "block": 0.2}
    with override_settings(TASKS={"default": {"BACKEND": backend, "QUEUES": ["default", "mail"], "OPTIONS": options}}):
        given = [(priority, name) for priority in (-1, -50, 0, 1, 100) for name in ("mail", "default")]
        results = [tasks.attempts.using(priority=priority, queue_name=name).enqueue() for priority, name in given]
        of = {result.id: one for result, one in zip(results, given, strict=True)}
        heard = Heard()
        run(queue().run_worker(burst=True, handle_signals=False))
        heard.close()
    order = [of[id] for name, id, _ in heard.heard if name == "started"]
    bands = [(priority > 0) - (priority < 0) for priority, _ in order]
    assert bands == sorted(bands, reverse=True) and len(order) == 10
    assert [name for _, name in order[:4]] == ["default", "default", "mail", "mail"]


def test_a_loop_that_was_made_for_one_call_keeps_no_connections() -> None:
    """As an async view has it under WSGI: a loop for each request."""
    before = len(connections_of(queue())._clients)
    result = async_to_sync(tasks.add.aenqueue)(1)
    async_to_sync(result.arefresh)()
    assert len(connections_of(queue())._clients) == before


def test_arguments_that_no_longer_fit_are_a_failure_that_has_a_class() -> None:
    """As after a deploy that changes a function."""
    other = TrackedQueue(os.environ["TEST_REDIS"], namespace=os.environ["TEST_NAMESPACE"])
    job = other.enqueue_sync(tasks.add.module_path, 1, 2, 3, 4)
    other.close()
    result = ended(default_task_backend.get_result(job.id))
    assert result.errors[0].exception_class is ArgumentError


def test_a_result_outlives_its_queue_s_name() -> None:
    result = ended(tasks.mail.enqueue("x"))
    default = settings.TASKS["default"]
    with override_settings(TASKS={"default": {**default, "QUEUES": ["default"]}}):
        assert default_task_backend.get_result(result.id).return_value == "x"


def test_two_tasks_of_one_function_have_the_same_options() -> None:
    function = type(tasks.add.func)(tasks.add.func.__code__, {}, "shared")
    function.__module__, function.__qualname__ = __name__, "shared"
    first = task()(function)
    assert task(priority=5)(function).func is first.func
    with pytest.raises(InvalidTask, match="other options"):
        task()(tracked(max_attempts=7)(function))


def test_members_of_choices_and_safe_text_are_plain_values() -> None:
    class Size(models.TextChoices):
        SMALL = "s"

    class Level(models.IntegerChoices):
        LOW = 1

    result = tasks.echo.enqueue(Size.SMALL, level=Level.LOW, html=mark_safe("<b>"))
    ended(result)
    assert result.return_value == [["s"], {"level": 1, "html": "<b>"}]
    result = tasks.safe.enqueue()
    ended(result)
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, {"html": "<b>", "size": "s"})
