"""A dashboard in this very loop, and jobs in every state for it to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.harness import wait_until
from tracked_queue import Concurrency, Fixed, TrackedQueue, current_job
from tracked_queue.app import connections_of
from tracked_queue.dashboard import dashboard
from tracked_queue.protocol import transitions as t

Client = Callable[..., httpx.AsyncClient]
OWN = {"Sec-Fetch-Site": "same-origin"}


def client_of(pages: Any, *, host: str = "localhost", peer: str = "127.0.0.1", headers: Any = OWN) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=pages, client=(peer, 12345), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


@pytest.fixture
async def web(app: TrackedQueue) -> AsyncIterator[Client]:
    """A client of a dashboard for the app, with these options; from this machine, as the dashboard's own page."""
    opened: list[tuple[httpx.AsyncClient, Any]] = []

    def make(
        *apps: TrackedQueue, peer: str = "127.0.0.1", host: str = "localhost", headers: Any = OWN, **options: Any
    ) -> Any:
        pages = dashboard(*(apps or (app,)), **options)
        client = client_of(pages, peer=peer, host=host, headers=headers)
        opened.append((client, pages))
        return client

    yield make
    for client, pages in opened:
        await client.aclose()
        await pages.aclose()


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    """Pages don't know of the event loop, and the suites of what they ask run on both."""
    return "asyncio", {"use_uvloop": True}


class Shop:
    """Jobs in every state, by scripts; no worker runs."""

    def __init__(self, app: TrackedQueue) -> None:
        self.app = app
        self.ids: dict[str, str] = {}

        @app.task(name="charge", queue="payments", max_attempts=1)
        async def charge(order: int, password: str = "") -> int:
            await current_job().log(f"order {order}")
            if order < 0:
                raise ValueError(f"order {order} refused by 'bank {order}'")
            return order

        @app.task(name="slow", queue="slow", limit=Concurrency(1, name="narrow"))
        async def slow(seconds: float = 60) -> None:
            await asyncio.sleep(seconds)

        @app.cron("0 3 * * *", name="nightly", tz="Europe/Berlin")
        @app.task(name="report", queue="reports", max_attempts=3, retry=Fixed(600))
        async def report() -> None:
            raise OSError("no paper")

        @app.task(name="total", queue="reports")
        async def total(orders: list[int | None]) -> int:
            return sum(one or 0 for one in orders)

        self.total = total
        self.charge, self.slow, self.report = charge, slow, report

    async def open(self) -> Shop:
        """Dead, scheduled, retrying, waiting, parked, lost, queued and ended jobs; a paused queue, an act, a recovery."""
        app, store = self.app, connections_of(self.app).store
        about = {
            "label": "pod-1", "host": "node-1", "pid": "7", "version": "1.0", "queues": "payments\nslow\nreports", "tasks": "charge\nslow\nreport",
            "concurrency": "50", "machine": "m", "born": "1", "program": "1", "started_ms": "1795992600000",
        }  # fmt: skip
        await store.run(t.register("pod-1.a", 600, 20, about))
        await store.run(t.register("gone-1.b", 600, 20, {**about, "label": "gone-1"}))
        self.ids["succeeded"] = (await self.charge.enqueue(1)).id
        self.ids["dead"] = (await self.charge.enqueue(-7, password="hunter2")).id
        from tests.harness import running_worker

        async with running_worker(app, queues=["payments"]):
            await wait_until(lambda: _state(app, self.ids["succeeded"], "succeeded"))
            await wait_until(lambda: _state(app, self.ids["dead"], "dead"))
        first = await self.slow.enqueue()
        self.ids["running"] = first.id
        await store.run(t.fetch("pod-1.a", 1, 1, 0, ["slow"]))
        self.ids["laned"] = (await self.slow.enqueue()).id
        self.ids["lost"] = (await self.report.enqueue()).id
        self.ids["lost too"] = (await self.report.enqueue()).id
        await store.run(t.fetch("gone-1.b", 1, 5, 0, ["reports"]))
        await store.run(t.release("gone-1.b", t.End.INTERRUPTED))
        self.ids["queued"] = (await self.charge.enqueue(5, password="hunter2")).id
        self.ids["scheduled"] = (await self.charge.options(delay=3600).enqueue(6)).id
        self.ids["waiting"] = (await self.charge.options(after=[await self.charge.enqueue(8)]).enqueue(9)).id
        await app.operator.acting_for("ada").pause(queue="payments")
        await app.operator.acting_for("ada").cancel([(await self.charge.enqueue(10)).id])
        return self


async def _state(app: TrackedQueue, job_id: str, state: str) -> bool:
    return str(await app.job(job_id).status()) == state


@pytest.fixture
async def shop(app: TrackedQueue) -> Shop:
    return await Shop(app).open()
