"""Workers that are ended with their test, and an app on the same namespace to enqueue with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.worker import Notes, Worker
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture
def start(server: RedisServer, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def make(*options: str, url: str = "", **more: Any) -> Worker:
        worker = Worker(url or server.url, namespace, tmp_path, *options, **more)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def notes(server: RedisServer, namespace: str) -> Iterator[Notes]:
    made = Notes(server.url, namespace)
    yield made
    made.close()


@pytest.fixture
async def queue(server: RedisServer, namespace: str) -> AsyncIterator[TrackedQueue]:
    made = TrackedQueue(server.url, namespace=namespace)
    yield made
    await made.aclose()
