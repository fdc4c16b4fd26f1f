"""A worker's probes over HTTP, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path

from tests.harness import wait_for
from tests.process.worker import Notes, Worker
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(port: int, page: str) -> tuple[int, str]:
    """Status and text; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_probes_follow_a_worker_through_its_life(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    port = free_port()
    worker = Worker(server.url, namespace, tmp_path, "--processes", "2", "--grace", "20", "--http-port", str(port))
    try:
        wait_for(lambda: ask(port, "live")[0] == 200, 20, "the supervisor to listen")
        wait_for(lambda: ask(port, "started")[0] == 200, 30, "both processes to have started")
        wait_for(lambda: ask(port, "ready") == (200, "ok\n"), 20, "both to hold leases")
        app = TrackedQueue(server.url, namespace=namespace)
        app.enqueue_sync("sleep", 6)
        app.close()
        Notes(server.url, namespace).wait("start", 1)
        assert ask(port, "nothing")[0] == 404
        worker.signal(signal.SIGTERM)
        wait_for(lambda: ask(port, "ready") == (503, "it is stopping\n"), 10, "it to say that it stops")
        assert ask(port, "live")[0] == 200, "an end is no reason for a restart"
        assert worker.process.wait(30) == 0
        assert ask(port, "live")[0] == 0
    finally:
        worker.close()


def test_a_port_that_is_taken_is_one_line(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = Worker(server.url, namespace, tmp_path, "--http-port", str(port), TRACKED_QUEUE_HTTP_HOST="127.0.0.1")
        try:
            assert worker.process.wait(30) == 2
            said = worker.log.read_text()
            assert f"http_port={port}" in said and "Traceback" not in said
        finally:
            worker.close()


def numbers(port: int) -> defaultdict[str, float]:
    """All series of `/metrics`, by name and labels as they are written; 0 for one that is not there."""
    status, text = ask(port, "metrics")
    assert status == 200, text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return defaultdict(float, ((name, float(value)) for name, value in pairs))


def test_metrics_are_those_of_all_processes_and_outlive_a_death(
    server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    port = free_port()
    worker = Worker(server.url, namespace, tmp_path, "--processes", "2", "--http-port", str(port))
    app = TrackedQueue(server.url, namespace=namespace)
    try:
        wait_for(lambda: ask(port, "started")[0] == 200, 30, "both processes to have started")
        for _ in range(20):
            app.enqueue_sync("short")
        runs = 'tracked_queue_runs_total{outcome="succeeded",queue="default",task="short"}'
        wait_for(lambda: numbers(port)[runs] == 20, 20, "all runs to be counted")
        wait_for(
            lambda: numbers(port)['tracked_queue_run_seconds_bucket{le="+Inf",task="short"}'] == 20, 20, "their times"
        )
        found = numbers(port)
        assert found["tracked_queue_slots"] == 2 * 100 and found["tracked_queue_running"] == 0
        assert found['tracked_queue_store_seconds_bucket{call="settle",le="+Inf"}'] > 0
        assert found['tracked_queue_loop_lag_seconds_bucket{le="+Inf"}'] > 0
        assert found['tracked_queue_process_ends_total{why="died"}'] == 0
        app.enqueue_sync("sleep", 60)
        Notes(server.url, namespace).wait("start", 1)
        wait_for(lambda: numbers(port)["tracked_queue_running"] == 1, 10, "the job to be seen")
        os.kill(int(worker.wait_event("process.started")[0]["pid"]), signal.SIGKILL)
        wait_for(
            lambda: numbers(port)['tracked_queue_process_ends_total{why="died"}'] == 1, 20, "the death to be counted"
        )
        assert numbers(port)[runs] == 20
    finally:
        app.close()
        worker.close()


def test_a_helper_that_holds_a_dead_process_pipes_keeps_none_of_its_numbers(
    server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    port, helpers = free_port(), tmp_path / "helpers"
    worker = Worker(
        server.url,
        namespace,
        tmp_path,
        "--http-port",
        str(port),
        app="tests.process.holding_jobs:app",
        HELPERS=str(helpers),
    )
    try:
        wait_for(lambda: ask(port, "started")[0] == 200, 30, "the process to have started")
        wait_for(lambda: numbers(port)["tracked_queue_slots"] == 100, 10, "its numbers")
        open_before = len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))
        for deaths in (1, 2):
            os.kill(int(worker.wait_event("process.started", deaths)[-1]["pid"]), signal.SIGKILL)
            wait_for(
                lambda n=deaths: numbers(port)['tracked_queue_process_ends_total{why="died"}'] == n, 20, "the death"
            )  # type: ignore[misc]
            worker.wait_event("process.started", deaths + 1)
            wait_for(lambda: ask(port, "ready") == (200, "ok\n"), 20, "the next one")
        wait_for(lambda: numbers(port)["tracked_queue_slots"] == 100, 10, "the numbers of one process")
        wait_for(
            lambda: len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir())) <= open_before + 1, 10, "no open pipes"
        )
    finally:
        worker.close()
        for pid in helpers.read_text().split() if helpers.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
