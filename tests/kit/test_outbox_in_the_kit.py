"""An outbox under test: a kit's drain passes committed rows on, `fake` and `inline` put nothing into the table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracked_queue import TrackedQueue
from tracked_queue.outbox import Outbox, ddl
from tracked_queue.testing import QueueKit, fake, inline


class Shop:
    def __init__(self, path: Path) -> None:
        self.app = TrackedQueue()
        self.database = sqlite3.connect(path)
        self.database.executescript(ddl("sqlite"))
        self.outbox = Outbox(self.app, f"sqlite:///{path}")
        self.ran: list[int] = []

        @self.app.task(name="send")
        async def send(n: int) -> None:
            self.ran.append(n)

        self.send = send

    def order(self, n: int, commit: bool = True) -> None:
        self.outbox.enqueue_sync(self.database, self.send.call(n))
        if commit:
            self.database.commit()
        else:
            self.database.rollback()

    @property
    def rows(self) -> int:
        return int(self.database.execute("select count(*) from tracked_queue_outbox").fetchone()[0])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path / "shop.db")
    yield made
    made.database.close()


async def test_a_drain_passes_on_what_was_committed(shop: Shop) -> None:
    async with QueueKit(shop.app) as kit:
        shop.order(1)
        shop.order(2, commit=False)
        assert await kit.enqueued() == [] and shop.rows == 1
        assert await kit.drain() == 1
        assert shop.ran == [1] and shop.rows == 0


async def test_a_crash_between_the_commit_and_the_relay_loses_nothing(shop: Shop) -> None:
    async with QueueKit(shop.app) as kit:
        shop.order(1)
        assert await kit.crash_after(1) == 0, "nobody has passed it on"
        await kit.drain()
        assert shop.ran == [1]


async def test_a_fake_records_and_writes_no_row(shop: Shop) -> None:
    with fake(shop.app) as queue:
        shop.order(1)
    queue.assert_enqueued(shop.send, 1)
    assert shop.rows == 0 and shop.ran == []


async def test_inline_runs_it_at_once(shop: Shop) -> None:
    async with inline(shop.app):
        await shop.app.enqueue("send", 1)
    assert shop.ran == [1]
