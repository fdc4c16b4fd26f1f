"""A Django project with a private Redis and a private database, set up once, and a worker in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from tests.postgres import Postgres
from tracked_queue.chaos.server import RedisServer

redis_server = RedisServer()
atexit.register(redis_server.close)
folder = Path(tempfile.mkdtemp(prefix="tq-django-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)
postgres: Postgres | None = None
database: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(folder / "db.sqlite3"),
    "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": "pragma journal_mode=wal"},
}
if os.environ.get("TEST_DJANGO_DATABASE") == "postgres":
    postgres = Postgres()
    atexit.register(postgres.close)
    database = {**postgres.django, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}

os.environ.update(
    TEST_DATABASE=json.dumps(database),
    TEST_REDIS=redis_server.url,
    TEST_NAMESPACE=f"dj{os.getpid()}",
    DJANGO_SETTINGS_MODULE="tests.django.project.settings",
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402

call_command("migrate", verbosity=0, run_syncdb=True)
connections.close_all()


class Worker:
    """Workers of some aliases in threads, so that tests stay as synchronous as Django's users are."""

    def __init__(self, *aliases: str) -> None:
        from tracked_queue.django import workers

        self._stops: list[Callable[[], None]] = []
        self._threads = []
        for alias in aliases:
            app, started = getattr(workers, alias), threading.Event()

            async def run(app: Any = app, started: threading.Event = started) -> None:
                loop = asyncio.get_running_loop()
                running = asyncio.ensure_future(app.run_worker(handle_signals=False))
                self._stops.append(lambda: loop.call_soon_threadsafe(running.cancel))
                started.set()
                await asyncio.wait({running})
                await app.aclose()

            thread = threading.Thread(target=lambda run=run: asyncio.run(run()))
            thread.start()
            self._threads.append(thread)
            started.wait()

    def stop(self) -> None:
        for stop in self._stops:
            stop()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    running = Worker("default", "plain", "outbox")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def clean_environment() -> None:
    """Not the other tests' fixture: the project's settings are read once."""


@pytest.fixture(autouse=True)
def fresh_structlog() -> None:
    """Likewise: the worker logs as long as the run lasts."""


def ended(result: Any, seconds: float = 20.0) -> Any:
    """A task's result once it has ended."""
    until = time.monotonic() + seconds
    while not result.is_finished:
        assert time.monotonic() < until, f"{result.id} is {result.status}"
        time.sleep(0.01)
        result.refresh()
    return result


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in an event loop of its own, whose connections are closed."""
    from tracked_queue.django import queue
    from tracked_queue.django.sites import aliases

    async def closing() -> Any:
        try:
            return await work
        finally:
            for alias in aliases():
                await queue(alias).aclose()

    return asyncio.run(closing())
