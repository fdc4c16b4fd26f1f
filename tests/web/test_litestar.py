"""The plugin for Litestar: what docs/how-to/fastapi.md promises of it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.testing import AsyncTestClient

from tests.harness import running_worker, wait_until
from tracked_queue import TrackedQueue, UsageError, current_job
from tracked_queue.app import connections_of
from tracked_queue.asgi import lifespan_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.dashboard import dashboard
from tracked_queue.litestar import QueuePlugin

ROOT = Path(__file__).parent.parent.parent


async def test_handlers_get_the_queue_which_opens_and_closes(app: TrackedQueue) -> None:
    @app.task()
    async def work(n: int) -> int:
        return n * 2

    @post("/order")
    async def order(jobs: NamedDependency[TrackedQueue]) -> str:
        assert jobs is app
        return (await work.enqueue(4)).id

    async with AsyncTestClient(Litestar([order], plugins=[QueuePlugin(app, dependency="jobs")])) as client:
        id = (await client.post("/order")).text
        assert connections_of(app).are_open
    async with running_worker(app):
        assert await app.job(id).result(10) == 8


async def test_a_worker_enters_litestar_s_lifespan(server: RedisServer, namespace: str) -> None:
    entered = []

    async def start(app: Litestar) -> None:
        entered.append(app)
        app.state.pool = "pool"

    lite = Litestar(on_startup=[start])
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of(lite))

    @queue.task()
    async def look() -> list[Any]:
        return [current_job().state.pool, len(entered)]

    async with running_worker(queue):
        assert await (await look.enqueue()).result(10) == ["pool", 1]
    await queue.aclose()


async def test_the_dashboard_is_behind_guards(app: TrackedQueue) -> None:
    def guard(connection: Any, _: Any) -> None:
        if connection.headers.get("x-who") != "operator":
            raise NotAuthorizedException()

    @get("/")
    async def home() -> str:
        return "home"

    pages = dashboard(app, insecure=True, hosts=["shop.local"])
    lite = Litestar([home], plugins=[QueuePlugin(app, dashboard=pages, dashboard_path="/jobs", guards=[guard])])
    async with AsyncTestClient(lite, base_url="http://shop.local") as client:
        assert (await client.get("/jobs/")).status_code == 401
        shown = await client.get("/jobs/", headers={"x-who": "operator"})
        assert shown.status_code == 200 and "queue" in shown.text.lower()
        assert (await client.get("/")).text == "home"
    for given in ({"guards": [guard]}, {"queue": "x"}):
        with pytest.raises(UsageError):
            QueuePlugin(**{"queue": app, **given})
    with pytest.raises(UsageError, match="no module holds"):
        _ = QueuePlugin(app).path


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
