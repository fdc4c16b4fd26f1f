"""Relays that are killed and frozen, a database and a Redis that restart: each committed row's job runs once, no other one does."""

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

import pytest

from tests import postgres
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.outbox import Outbox, ddl

ROOT = Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get("OUTBOX_SECONDS", "8"))
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
        connection = self.connect()
        found = connection.cursor().execute("select n from orders order by n").fetchall()
        connection.close()
        return [n for (n,) in found]


@pytest.fixture(params=["sqlite", *(["postgresql"] if postgres.program("initdb") else [])])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
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

    def __init__(self, redis: RedisServer, namespace: str, place: Place, folder: Path) -> None:
        self.runs = folder / "runs"
        self._log = (folder / "log").open("ab")
        self._env = {
            **os.environ,
            "REDIS_URL": redis.url,
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


@pytest.mark.timeout(180)
def test_what_is_committed_runs_once_whatever_dies(place: Place, namespace: str, tmp_path: Path) -> None:
    redis = RedisServer(appendonly=True)
    app = TrackedQueue(redis.url, namespace=namespace)
    chance = random.Random(SEED)
    programs = Programs(redis, namespace, place, tmp_path)
    writers = Writers(place, app, 4)
    try:
        until, restarts = time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.05, 0.4))
            match chance.randrange(8):
                case 0 if place.restart is not None and restarts < 2:
                    place.restart()
                    restarts += 1
                case 1:
                    redis.kill()
                    time.sleep(chance.uniform(0.1, 0.5))
                    programs.kill_one(chance)  # between its claim and its send, probably
                    redis.start()
                case 2:
                    frozen = chance.choice(programs.relays)
                    frozen.send_signal(signal.SIGSTOP)
                    time.sleep(1.5)  # longer than the records of ended jobs are kept
                    frozen.send_signal(signal.SIGCONT)
                case _:
                    programs.kill_one(chance)
        writers.join()
        committed = place.numbers()
        assert writers.tried > 50 and 0 < len(committed) < writers.tried
        until = time.monotonic() + 60
        while programs.numbers() != committed and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1.0)  # for a job that should not be there
        found = programs.numbers()
    finally:
        writers.join()
        programs.close()
        app.close()
        redis.close()
    log = (tmp_path / "log").read_text()[-3000:]
    assert sorted(set(committed) - set(found)) == [], f"lost: {log}"
    assert sorted(set(found) - set(committed)) == [], f"rolled back and run all the same: {log}"
    doubled = [n for n in set(found) if found.count(n) > 1]
    assert doubled == [], f"run more than once: {log}"
