"""
Django's connections in a worker.

Django recycles connections at the ends of requests, and a worker has none: it is done here at the ends of jobs, in the thread
that has the connection. A connection stays open from job to job as CONN_MAX_AGE says, and is closed when its thread ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from django.core.cache import caches
from django.db import close_old_connections, connections, reset_queries

from ..app import TrackedQueue
from ..model.context import CurrentJob


def install(app: TrackedQueue) -> None:
    """Have an app's jobs treat Django's connections well."""
    app.thread_lifespan(_connections)
    app.thread_context(_recycled)

    async def own_thread(job: CurrentJob, call_next: Any) -> Any:
        """
        The ORM's `a...` methods run in one thread for a whole process, unless a context says otherwise: then jobs share a
        connection, and their transactions mix. Here each job of an `async def` has a thread of its own, from the first such
        call to its end. A plain `def` is in its own thread anyway, where an event loop of its own could not wait for it.
        """
        task = app.tasks.get(job.task)
        if task is None or not task.is_async:
            return await call_next()
        async with ThreadSensitiveContext(executor=job.thread):
            return await call_next()

    app.middleware(own_thread)


@contextmanager
def _connections() -> Iterator[None]:
    try:
        yield
    finally:
        connections.close_all()


@contextmanager
def _recycled() -> Iterator[None]:
    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
        caches.close_all()
