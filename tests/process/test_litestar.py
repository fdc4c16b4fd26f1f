"""Workers that Litestar's command line starts, and that end with its server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import wait_until
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.litestar import QueuePlugin

ROOT = Path(__file__).parent.parent.parent


def test_litestar_s_command_line_has_ours(server: RedisServer, namespace: str) -> None:
    env = {**os.environ, "REDIS_URL": server.url, "PROCESSING_NS": namespace, "LITESTAR_APP": "tests.web.lite_app:app"}

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "litestar"), "queue", *words]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    helped = ran("--help")
    assert helped.returncode == 0 and "worker" in helped.stdout and "litestar queue" in helped.stdout, helped.stderr
    worker = ran("worker", "--burst", "--processes", "1")
    assert worker.returncode == 0, worker.stderr
    queues = ran("queues")
    assert queues.returncode == 0 and "no queues yet" in queues.stdout
    wrong = ran("quues")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


async def test_workers_start_and_end_with_the_server(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("PROCESSING_NS", namespace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from tests.web import lite_app

    lite_app.jobs.configure(redis_url=server.url, namespace=namespace)
    (plugin,) = [one for one in lite_app.app.plugins if isinstance(one, QueuePlugin)]
    try:
        with plugin.server_lifespan(lite_app.app):
            job = await lite_app.double.enqueue(4)
            assert await job.result(20) == 8
        await wait_until(lambda: none_left(lite_app.jobs))
    finally:
        await lite_app.jobs.aclose()


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_workers_end_with_the_server_however_that_ends(server: RedisServer, namespace: str, how: str) -> None:
    """With their grace: SIGTERM to the server alone, or SIGINT to all of the terminal's foreground."""
    env = {**os.environ, "REDIS_URL": server.url, "PROCESSING_NS": namespace, "LITESTAR_APP": "tests.web.lite_app:app"}
    command = [str(Path(sys.executable).parent / "litestar"), "run", "--port", "0"]
    looks = TrackedQueue(server.url, namespace=namespace)
    running = subprocess.Popen(
        command, env=env, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        job = await looks.enqueue("slow", 1.0)
        await wait_until(lambda: is_active(job), timeout=20)
        if how == "SIGTERM":
            running.terminate()
        else:
            os.killpg(running.pid, signal.SIGINT)
        assert await job.result(10) == "slept"
        await asyncio.to_thread(running.wait, 20)
        assert not await looks.operator.instances()
        assert (await job.info()).interruptions == 0
    finally:
        running.kill()
        running.wait()
        await looks.aclose()


async def is_active(job: Any) -> bool:
    return (await job.status()).value == "active"


async def none_left(queue: TrackedQueue) -> bool:
    return not await queue.operator.instances()
