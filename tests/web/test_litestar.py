"""The plugin for Litestar: what docs/how-to/fastapi.md promises of it."""

from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.testing import AsyncTestClient

from tests.harness import running_worker
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
