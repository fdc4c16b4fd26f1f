"""`worker --reload`: new code in a new process, whatever happens to the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.process.worker import environment
from tracked_queue import State, TrackedQueue
from tracked_queue.chaos.server import RedisServer

CODE = """
import asyncio
from tracked_queue import TrackedQueue
app = TrackedQueue()

@app.task(name="version")
async def version(seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return 1
"""


@pytest.mark.timeout(60)
async def test_a_change_is_picked_up_a_mistake_is_waited_out_and_a_running_job_is_drained(
    server: RedisServer, namespace: str, queue: TrackedQueue, tmp_path: Path
) -> None:
    """CASE-70."""
    code, log = tmp_path / "code.py", tmp_path / "worker.log"
    code.write_text(CODE)
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tracked_queue", "worker", "code:app", "--reload", "--log-format", "json"],
            env=environment(server.url, namespace, PYTHONDONTWRITEBYTECODE="1"), cwd=tmp_path, stdout=file, stderr=file,
        )  # fmt: skip

    def registered(count: int) -> bool:
        return log.read_text().count("instance.registered") >= count

    try:
        wait_for(lambda: registered(1), 20, "the worker")
        assert await (await queue.enqueue("version")).result(10) == 1
        running = await queue.enqueue("version", 1.5)
        while await running.status() is not State.ACTIVE:
            pass
        (tmp_path / "notes.txt").write_text("no source")
        code.write_text(CODE.replace("return 1", "return 2"))
        wait_for(lambda: registered(2), 20, "the new process")
        assert await running.result(10) == 1, "the running job was let finish"
        assert await (await queue.enqueue("version")).result(10) == 2
        code.write_text("this is no Python")
        wait_for(lambda: "can't be imported" in log.read_text(), 20, "the mistake to be told of")
        assert worker.poll() is None
        code.write_text(CODE.replace("return 1", "return 3"))
        wait_for(lambda: registered(3), 20, "the mended code")
        assert await (await queue.enqueue("version")).result(10) == 3
        assert log.read_text().count("code.changed") <= 4, "only source counts"
    finally:
        worker.terminate()
        assert worker.wait(20) == 0, log.read_text()
