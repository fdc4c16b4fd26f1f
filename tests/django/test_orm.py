"""Transactions around an enqueue, and what becomes of database connections in a worker."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.test import override_settings

from tests.django import conftest
from tests.django.conftest import ended, run
from tests.django.project.shop import tasks
from tests.django.project.shop.models import Note
from tests.django.versions import TaskResultDoesNotExist, TaskResultStatus, default_task_backend, task_enqueued
from tracked_queue.django import queue
from tracked_queue.django.models import OutboxRow

pytestmark = pytest.mark.usefixtures("worker")

_texts = itertools.count()


def text() -> str:
    return f"n{os.getpid()}-{next(_texts)}"


def get(id: str) -> Any:
    return default_task_backend.get_result(id)


# Transactions


@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_of_a_transaction_is_enqueued_when_it_commits(is_async: bool) -> None:
    heard: list[str] = []

    def receiver(*, task_result: Any, **_: Any) -> None:
        heard.append(task_result.id)

    task_enqueued.connect(receiver)
    try:
        with transaction.atomic():
            result = async_to_sync(tasks.add.aenqueue)(1) if is_async else tasks.add.enqueue(1)
            assert result.id and result.status == TaskResultStatus.READY
            with pytest.raises(TaskResultDoesNotExist):
                get(result.id)
            assert heard == []
        assert heard == [result.id]
        assert ended(result).return_value == 2
    finally:
        task_enqueued.disconnect(receiver)


def test_a_task_of_a_transaction_that_is_rolled_back_never_runs() -> None:
    found = []
    with pytest.raises(LookupError), transaction.atomic():
        found.append(tasks.add.enqueue(1))
        raise LookupError
    with transaction.atomic():
        with pytest.raises(LookupError), transaction.atomic():  # a savepoint
            found.append(tasks.add.enqueue(1))
            raise LookupError
        kept = tasks.add.enqueue(1)
    ended(kept)
    for result in found:
        with pytest.raises(TaskResultDoesNotExist):
            get(result.id)


def test_the_row_is_there_when_the_task_runs() -> None:
    """The most reported fault of task queues with Django."""
    for _ in range(20):
        with transaction.atomic():
            result = tasks.add.enqueue(Note.objects.create(text=text()).pk)
        assert ended(result).status == TaskResultStatus.SUCCESSFUL


def test_with_enqueue_now_a_transaction_is_not_waited_for() -> None:
    with transaction.atomic():
        result = tasks.twice.enqueue(text())
        assert queue("plain").job(result.id).info_sync().task == tasks.twice.module_path


def test_a_second_one_of_a_unique_task_is_the_first() -> None:
    slow = text()
    first = tasks.once.using(run_after=None).enqueue(slow)
    second = tasks.once.enqueue(slow)
    assert ended(first).return_value == ended(second).return_value == slow


# Connections


def test_100_async_jobs_that_use_the_orm_at_once() -> None:
    """Each in a thread of its own for its time, so that no transaction is another's; there are 8 threads."""

    async def all_of_them() -> list[Any]:
        return [await tasks.orm_at_once.aenqueue(text()) for _ in range(100)]

    for result in run(all_of_them()):
        assert ended(result, 60).return_value is True, result.errors


def test_a_worker_has_no_more_connections_than_threads() -> None:
    results = [tasks.write_note.enqueue(text()) for _ in range(60)]
    assert len({ended(result).return_value for result in results}) == 60
    if conftest.postgres is not None:
        with connection.cursor() as cursor:
            cursor.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'")
            # 8 threads of each of the two workers, and the tests' own.
            assert cursor.fetchone()[0] <= 20


if conftest.postgres is not None:

    def test_a_restarted_database_costs_no_job() -> None:
        assert conftest.postgres is not None
        before = {ended(tasks.backend_pid.enqueue()).return_value for _ in range(20)}
        assert before
        connections.close_all()
        conftest.postgres.restart()
        results = [tasks.backend_pid.enqueue() for _ in range(20)]
        after = {ended(result).return_value for result in results}
        assert not before & after
        (later,) = [ended(result) for result in [tasks.write_note.enqueue(text())]]
        assert later.status == TaskResultStatus.SUCCESSFUL
        laters = run(_many_async())
        assert all(ended(result).status == TaskResultStatus.SUCCESSFUL for result in laters)


async def _many_async() -> list[Any]:
    return [await tasks.orm_at_once.aenqueue(text()) for _ in range(20)]


def test_connections_are_closed_when_a_worker_ends() -> None:
    from tracked_queue import TrackedQueue
    from tracked_queue.django import connections as ours

    own = TrackedQueue(os.environ["TEST_REDIS"], namespace=text(), heartbeat_interval=0.2, block=0.2)
    ours.install(own)
    seen: list[Any] = []

    @own.task(name="plain")
    def plain() -> int:
        seen.append(connections["default"])
        return Note.objects.count()

    @own.task(name="later")
    async def later() -> int:
        seen.append(await sync_to_async(lambda: connections["default"])())
        return await Note.objects.acount()

    async def once() -> None:
        async with own:
            for task in (plain, later):
                await task.enqueue()
            await own.run_worker(burst=True, handle_signals=False)

    asyncio.run(once())
    assert len(seen) == 2
    assert all(found.connection is None for found in seen)
    assert seen[0] is not connections["default"]


def test_a_task_of_the_app_beside_djangos() -> None:
    async def use() -> int:
        return await (await tasks.typed.enqueue(3)).result(10)

    assert run(use()) == 3


def test_a_child_process_uses_the_orm() -> None:
    result = ended(tasks.apart.enqueue(text()), 40)
    assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
    pk, pid = result.return_value
    assert pid != os.getpid() and Note.objects.filter(pk=pk).exists()


def test_threads_of_web_requests_share_the_app() -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(tasks.add.enqueue(1))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended(result).return_value for result in found] == [2] * 10


# The outbox


@pytest.mark.parametrize("is_async", [False, True])
def test_with_the_outbox_a_task_is_a_row_of_the_transaction(is_async: bool) -> None:
    def enqueue(n: int) -> Any:
        return async_to_sync(tasks.outboxed.aenqueue)(n) if is_async else tasks.outboxed.enqueue(n)

    with transaction.atomic():
        kept = enqueue(1)
        with pytest.raises(LookupError), transaction.atomic():
            lost = enqueue(2)
            raise LookupError
        assert OutboxRow.objects.filter(job_id=kept.id).exists()
    later = enqueue(3)  # in autocommit mode
    assert [ended_in(result) for result in (kept, later)] == [1, 3]
    with pytest.raises(TaskResultDoesNotExist):
        tasks.outboxed.get_result(lost.id)
    assert not OutboxRow.objects.exists()


def ended_in(result: Any) -> Any:
    until = time.monotonic() + 20
    while True:
        try:
            result.refresh()
            return ended(result).return_value
        except TaskResultDoesNotExist:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_row_is_written_while_redis_is_away() -> None:
    options = {"redis_url": "redis://127.0.0.1:1", "namespace": "away", "ENQUEUE": "outbox"}
    backend = "tracked_queue.django.TrackedQueueBackend"
    with override_settings(TASKS={"outbox": {"BACKEND": backend, "OPTIONS": options}}):
        result = tasks.outboxed.enqueue(1)
        assert OutboxRow.objects.get(namespace="away").job_id == result.id
        OutboxRow.objects.all().delete()


def test_a_plain_task_may_run_an_event_loop_that_uses_the_orm() -> None:
    results = [tasks.loops.enqueue() for _ in range(10)]
    assert [ended(result).return_value for result in results] == [1] * 10


def test_an_async_task_that_enqueues_takes_no_thread_for_it() -> None:
    id, used = ended(tasks.enqueues.enqueue()).return_value
    assert used is False
    assert ended(get(id)).return_value == 2


def test_a_child_process_finds_a_task_of_any_module() -> None:
    from tests.django.project.shop import others

    result = ended(others.elsewhere.enqueue(3), 40)
    assert result.return_value == [3, result.id, 1], result.errors
