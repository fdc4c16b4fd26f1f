"""Relays that are killed and frozen, a database and a Redis that restart: each committed row's job runs once, no other one does."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outbox_fleet import KINDS, SEED, Place, Programs, Writers, place_of
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer

SECONDS = float(os.environ.get("OUTBOX_SECONDS", "8"))


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from place_of(request.param, tmp_path)


@pytest.mark.timeout(180)
def test_what_is_committed_runs_once_whatever_dies(place: Place, namespace: str, tmp_path: Path) -> None:
    redis = RedisServer(appendonly=True)
    app = TrackedQueue(redis.url, namespace=namespace)
    chance = random.Random(SEED)
    programs = Programs(redis.url, namespace, place, tmp_path)
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
