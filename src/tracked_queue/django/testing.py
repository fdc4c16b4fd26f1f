"""
For tests of Django code that enqueues tasks: what was enqueued, with the callbacks of `on_commit` run, and the tasks themselves
in the test's own thread and transaction.

Source: docs/how-to/django.md.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from asgiref.sync import async_to_sync

from ..errors import UsageError
from ..testing.records import Fake, fake
from .sites import Site, site


class EnqueuedTasks(Fake):
    """What `enqueues()` yields: see `Fake` for its assertions, which take Django's tasks."""

    def __init__(self, case: Any, of: Site) -> None:
        super().__init__(app=of.app)
        self._case, self._site, self._ran = case, of, 0

    def run(self) -> int:
        """
        Run the tasks that were enqueued and have not run yet, and those that they enqueue, here: in this thread, and so in the
        test's own transaction. Delays are not waited for, nothing is retried, and there is no `current_job()`.

        Returns:
            How many ran.

        Raises:
            Exception: What a task raises, as itself.
        """
        ran = 0
        while self._ran < len(self.calls):
            call = self.calls[self._ran]
            self._ran += 1
            task = self._site.app.tasks.get(call.task)
            if task is None:
                raise UsageError(f"task {call.task!r} is not known here: import its module")
            if task.dependencies:
                raise UsageError(
                    f"task {call.task!r} takes what Depends(...) makes: run it in a worker, with TransactionTestCase"
                )
            with _recorded(self._case, self._site, self):
                if inspect.iscoroutinefunction(task.function):
                    async_to_sync(task.function)(*call.args, **call.kwargs)
                else:
                    task.function(*call.args, **call.kwargs)
            ran += 1
        return ran


class QueueTestMixin:
    """
    For `django.test.TestCase`, and any other test case of Django:

        class OrderTests(QueueTestMixin, TestCase):
            def test_a_receipt_is_written(self):
                with self.enqueues() as queue:
                    place_order("tea")
                queue.assert_enqueued(write_receipt, order_id=1)
                queue.run()
    """

    @contextlib.contextmanager
    def enqueues(self, alias: str = "default") -> Iterator[EnqueuedTasks]:
        """
        Record the enqueues of a block, with all three values of ENQUEUE; at its end the callbacks of its `on_commit` are run.
        Needs no Redis.
        """
        of = site(alias)
        recorded = EnqueuedTasks(self, of)
        with _recorded(self, of, recorded):
            yield recorded


@contextlib.contextmanager
def _recorded(case: Any, of: Site, into: Fake) -> Iterator[None]:
    capture = getattr(case, "captureOnCommitCallbacks", None)
    with fake(of.app) as block:
        block.calls = into.calls
        with contextlib.nullcontext() if capture is None else capture(using=of.database, execute=True):
            yield
