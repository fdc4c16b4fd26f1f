"""Programs around an outbox in processes of their own: writers that commit and roll back, relays and a worker that can be killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import postgres
from tracked_queue import TrackedQueue
from tracked_queue.outbox import Outbox, ddl

ROOT = Path(__file__).parent.parent
SEED = int(os.environ.get("OUTBOX_SEED", "1"))


class Place:
    """A database: how to connect, its URL, and how it restarts (None: it is a file)."""

    def __init__(self, connect: Callable[[], Any], url: str, dialect: str, restart: Callable[[], None] | None) -> None:
        self.connect, self.url, self.restart = connect, url, restart
        connection = connect()
        for statement in [*filter(str.strip, ddl(dialect).split(";")), "create table orders (n integer)"]:
            connection.cursor().execute(statement)
        connection.commit()
        connection.close()
        self.mark = "?" if dialect == "sqlite" else "%s"

    def numbers(self) -> list[int]:
        """Of the orders that were committed."""
        return self._column("select n from orders order by n")

    def waiting(self) -> int:
        """How many rows are to be passed on."""
        return self._column("select count(*) from tracked_queue_outbox")[0]

    def _column(self, query: str) -> list[int]:
        connection = self.connect()
        found = connection.cursor().execute(query).fetchall()
        connection.close()
        return [n for (n,) in found]


KINDS = ["sqlite", *(["postgresql"] if postgres.program("initdb") else [])]


def place_of(kind: str, tmp_path: Path) -> Iterator[Place]:
    """A database of this kind, until the iterator goes on."""
    if kind == "sqlite":
        path = tmp_path / "db.sqlite3"
        first = sqlite3.connect(path)
        first.execute("pragma journal_mode=wal")
        first.close()
        yield Place(lambda: sqlite3.connect(path, timeout=30), f"sqlite:///{path}", "sqlite", None)
        return
    import psycopg

    server = postgres.Postgres()
    url = f"postgresql://postgres@/postgres?host={server.folder}"
    yield Place(lambda: psycopg.connect(server.dsn), url, "postgresql", server.restart)
    server.close()


class Writers:
    """Threads that place orders, each in a transaction with its job; some roll back, some lose their connection."""

    def __init__(self, place: Place, app: TrackedQueue, count: int) -> None:
        from tests.process.outbox_jobs import note

        self.place, self.outbox, self.stop = place, Outbox(app), threading.Event()
        self.task = app.task(name="note")(note.function)
        self.tried = 0
        self._threads = [threading.Thread(target=self._write, args=(at, count)) for at in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, at: int, step: int) -> None:
        chance, n = random.Random(SEED * 100 + at), at
        while not self.stop.is_set():
            n += step
            try:
                connection = self.place.connect()
            except Exception:  # it restarts
                time.sleep(0.05)
                continue
            try:
                connection.cursor().execute(f"insert into orders values ({self.place.mark})", (n,))
                self.outbox.enqueue_sync(connection, self.task.call(n))
                time.sleep(chance.choice([0, 0, 0.01, 0.05]))  # others commit before it
                if chance.random() < 0.3:
                    connection.rollback()
                else:
                    connection.commit()
                self.tried += 1
            except Exception:  # whether it was committed, the table says
                pass
            finally:
                with contextlib.suppress(Exception):
                    connection.close()

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


class Programs:
    """Relays and a worker, in processes of their own."""

    def __init__(self, url: str, namespace: str, place: Place, folder: Path) -> None:
        self.runs = folder / "runs"
        self._log = (folder / "log").open("ab")
        self._env = {
            **os.environ,
            "REDIS_URL": url,
            "PROCESSING_NS": namespace,
            "OUTBOX_RUNS": str(self.runs),
            "PYTHONPATH": str(ROOT),
        }
        self._database = place.url
        self.worker = self._start("worker", "tests.process.outbox_jobs:app", "--log-level", "warning")
        self.relays = [self._relay() for _ in range(3)]

    def _start(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tracked_queue", *words]
        return subprocess.Popen(command, env={**self._env, **env}, cwd=ROOT, stdout=self._log, stderr=self._log)

    def _relay(self) -> subprocess.Popen[bytes]:
        return self._start("outbox", "relay", "tests.process.outbox_jobs:app", OUTBOX_DATABASE=self._database)

    def kill_one(self, chance: random.Random) -> None:
        at = chance.randrange(len(self.relays))
        self.relays[at].kill()
        self.relays[at].wait()
        self.relays[at] = self._relay()

    def numbers(self) -> list[int]:
        return sorted(map(int, self.runs.read_text().split())) if self.runs.exists() else []

    def close(self) -> None:
        for relay in self.relays:
            relay.kill()
            relay.wait()
        self.worker.send_signal(signal.SIGTERM)
        self.worker.wait(30)
        self._log.close()
