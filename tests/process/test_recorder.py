"""The flight recorder of real worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import redis
from tests.harness import wait_for
from tests.process.worker import Notes, Worker
from tests.rights import admin
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.keys import Keys


def flights(folder: Path, why: str) -> list[Path]:
    return sorted(folder.glob(f"*-{why}.flight"))


def shown(path: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tracked_queue", "trace", str(path), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def app(server: RedisServer, namespace: str) -> Any:
    found = TrackedQueue(server.url, namespace=namespace)
    yield found
    found.close()


def test_a_signal_writes_what_each_process_did(
    server: RedisServer, namespace: str, tmp_path: Path, app: TrackedQueue
) -> None:
    folder = tmp_path / "flights"
    worker = Worker(server.url, namespace, tmp_path, "--processes", "2", TRACKED_QUEUE_FLIGHT_FOLDER=str(folder))
    try:
        worker.ready(2)
        quick, long = app.enqueue_sync("sleep", 0.2), app.enqueue_sync("sleep", 60)
        Notes(server.url, namespace).wait("start", 2)
        record = Keys(namespace).record_of(quick.id)
        with redis.Redis.from_url(admin(server.url)) as client:
            wait_for(lambda: client.hget(record, "state") == b"succeeded", 10, "the short one to be recorded")
        worker.signal(signal.SIGUSR2)
        worker.wait_event("flight.written", 2)
        paths = flights(folder, "asked")
        assert len(paths) == 2 and all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
        texts = [shown(path) for path in paths]
        (busy,) = [text for text in texts if f"    {long.id}  sleep  for " in text]
        assert "thread MainThread" in busy and "jobs.py" in busy, "where the job stands"
        assert any(f"run                     {quick.id}  sleep  succeeded" in text for text in texts)
        assert "instance.registered" in busy and "fetch" in busy
        (path,) = [path for path, text in zip(paths, texts, strict=True) if text == busy]
        about = json.loads(shown(path, "--job", long.id, "--json"))
        assert [event["kind"] for event in about["events"]] == [] and about["head"]["why"] == "asked"
        assert worker.process.poll() is None
    finally:
        worker.close()


def test_a_blocked_loop_is_seen_while_it_is_blocked(
    server: RedisServer, namespace: str, tmp_path: Path, app: TrackedQueue
) -> None:
    folder = tmp_path / "flights"
    worker = Worker(server.url, namespace, tmp_path, TRACKED_QUEUE_FLIGHT_FOLDER=str(folder), HEARTBEAT_TTL="20")
    try:
        worker.ready()
        app.enqueue_sync("block", 4)
        wait_for(lambda: flights(folder, "loop-blocked"), 20, "the file")
        worker.wait_event("flight.written")
        (path,) = flights(folder, "loop-blocked")
        text = shown(path)
        assert "time.sleep" in text or "in block" in text or "jobs.py" in text
        assert "loop.blocked" in text and "running  1 jobs" in text
    finally:
        worker.close()


def test_a_lost_lease_leaves_a_file(server: RedisServer, namespace: str, tmp_path: Path, app: TrackedQueue) -> None:
    folder = tmp_path / "flights"
    worker = Worker(server.url, namespace, tmp_path, TRACKED_QUEUE_FLIGHT_FOLDER=str(folder))
    other = Worker(server.url, namespace, tmp_path)
    try:
        (lease,) = worker.ready()
        other.ready()
        app.enqueue_sync("sleep", 60)
        Notes(server.url, namespace).wait("start", 1)
        for event in worker.wait_event("process.started"):
            os.kill(event["pid"], signal.SIGSTOP)
        other.wait_event("lease.recovered", timeout=30)
        for event in worker.wait_event("process.started"):
            os.kill(event["pid"], signal.SIGCONT)
        found = wait_for(lambda: flights(folder, "lease-lost") + flights(folder, "given-up"), 20, "a file")
        assert lease in shown(found[0])
    finally:
        worker.close()
        other.close()


def test_a_folder_that_cant_be_written_costs_a_line(
    server: RedisServer, namespace: str, tmp_path: Path, app: TrackedQueue
) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    worker = Worker(server.url, namespace, tmp_path, TRACKED_QUEUE_FLIGHT_FOLDER=str(taken))
    try:
        worker.ready()
        worker.signal(signal.SIGUSR2)
        (event,) = worker.wait_event("flight.unwritten")
        assert event["why"] == "asked"
        app.enqueue_sync("sleep", 0.01)
        Notes(server.url, namespace).wait("end", 1)
    finally:
        worker.close()
