"""`QueueTestMixin` in test cases of Django: transactions, callbacks, tasks in the test's own thread."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from tests.django.project.shop import tasks
from tests.django.project.shop.models import Note
from tests.django.versions import task_backends
from tracked_queue.django.testing import QueueTestMixin
from tracked_queue.testing import including


class _Mode:
    mode = "on_commit"

    def setUp(self) -> None:
        site = task_backends["default"].site
        self._before, site.mode = site.mode, self.mode
        self._outbox = site.outbox
        if self.mode == "outbox":
            from tracked_queue.django.outbox import outbox_of

            site.outbox = outbox_of(site.app, site.database)

    def tearDown(self) -> None:
        site = task_backends["default"].site
        if self.mode == "outbox":
            site.app._definitions.hooks.companions.remove(site.outbox)
        site.mode, site.outbox = self._before, self._outbox


class Cases(QueueTestMixin, _Mode):
    def test_what_was_enqueued_is_seen_and_runs_in_the_test_s_transaction(self: Any) -> None:
        with self.enqueues() as queue, transaction.atomic():
            result = tasks.add.enqueue(1, b=2)
            tasks.echo.enqueue({"id": 7, "more": 1}, deep=[1])
            assert result.id
        queue.assert_enqueued(tasks.add, 1)
        queue.assert_enqueued(tasks.add, a=1, b=2)
        queue.assert_not_enqueued(tasks.add, 2)
        assert [call.args for call in queue.all_enqueued(tasks.echo)] == [({"id": 7, "more": 1},)]
        with pytest.raises(AssertionError, match="no enqueue of"):
            queue.assert_enqueued(tasks.add, 5)
        assert queue.run() == 2 and queue.run() == 0

    def test_tasks_share_the_test_s_connection_and_enqueue_others(self: Any) -> None:
        Note.objects.create(text="mine")
        with self.enqueues() as queue:
            tasks.copies.enqueue(2)
        assert queue.run() == 3
        assert Note.objects.filter(text="mine").count() == 3
        assert queue.assert_enqueued(tasks.copies, 0)

    def test_async_tasks_and_errors(self: Any) -> None:
        with self.enqueues() as queue:
            tasks.add_later.enqueue(1)
            tasks.fails.enqueue()
        with pytest.raises(ValueError, match="This task failed"):
            queue.run()

    def test_a_rolled_back_block_enqueues_nothing(self: Any) -> None:
        with self.enqueues() as queue:
            try:
                with transaction.atomic():
                    tasks.add.enqueue(1)
                    raise LookupError
            except LookupError:
                pass
        assert queue.all_enqueued() == [] or self.mode != "on_commit"


class TestOnCommit(Cases, TestCase): ...


class TestNow(Cases, TestCase):
    mode = "now"


class TestOutbox(Cases, TestCase):
    mode = "outbox"


class TestTransactions(Cases, TransactionTestCase): ...


def test_matchers_work_with_django_s_tasks() -> None:
    assert including({"id": 7}) == {"id": 7, "more": 1}
