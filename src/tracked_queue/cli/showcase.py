"""
`demo --dashboard`: a shop with a mixed load, dead letters, a full limit, a queue that nobody serves and a lost instance; and
the dashboard, on an address that is printed.

Everything lives in a temporary folder with an embedded Redis, and is gone at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import Any

from ..app import TrackedQueue
from ..errors import TrackedQueueError, UsageError
from . import showcase_tasks as shop
from .machines import Machine, staged

QUEUES = ("emails", "images", "payments", "shipping", "reports", "default", "newsletter")
PATIENCE_S = 60.0
# So that the lost instance can be looked at, nobody recovers its jobs but the person at the dashboard.
WORKERS = {"TRACKED_QUEUE_AUTO_RECOVERY": "false", "HEARTBEAT_TTL": "6"}


def run_showcase(port: int | None = None) -> int:
    """Until Ctrl-C."""
    try:
        from ..dashboard import dashboard
        from ..dashboard.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "jinja2", "starlette"):
            raise
        raise UsageError("demo --dashboard needs more: pip install 'tracked-queue[dashboard]'") from None

    async def work(folder: Path, url: str) -> None:
        shop.app.configure(redis_url=url, heartbeat_interval=0.5, heartbeat_ttl=6.0)
        async with shop.app as app:
            pages = dashboard(app, badge="demo")
            print("a shop opens; this takes some seconds", flush=True)
            feeder = asyncio.create_task(_open_shop(app, folder, url))
            try:
                await _first(feeder, app)
                await serve(
                    pages,
                    "127.0.0.1",
                    port or 0,
                    1,
                    lambda at: print(f"the dashboard is at {at}/  (Ctrl-C ends it)", flush=True),
                )
            finally:
                feeder.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await feeder

    staged("dashboard", work)
    print("the shop is closed; its workers, the server and the temporary folder are gone")
    return 0


async def _first(feeder: asyncio.Task[None], app: TrackedQueue) -> None:
    """Until there is something to look at."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if feeder.done():
            await feeder
        with contextlib.suppress(TrackedQueueError):
            if any(one.owned and not one.alive for one in await app.operator.instances()):
                return
        await asyncio.sleep(0.2)


async def _open_shop(app: TrackedQueue, folder: Path, url: str) -> None:
    tasks = f"{__package__}.showcase_tasks:app"
    options = [part for queue in QUEUES for part in ("--queue", queue)]
    for label, more in (("web-1", ("--processes", "2")), ("web-2", ())):
        Machine(folder, url, label, *options, *more, "--concurrency", "40", app=tasks, **WORKERS)
    doomed = Machine(folder, url, "export-1", "--queue", "exports", "--concurrency", "12", app=tasks, **WORKERS)
    await app.enqueue_many([shop.export.call(part) for part in range(12)])
    await app.enqueue_many([shop.invoice.call(number) for number in range(40)])
    await app.operator.acting_for("ada").pause(queue="newsletter")
    await app.enqueue_many([shop.newsletter.call(number) for number in range(250)])
    await app.enqueue_many([shop.charge_card.call(order, f"card-{order % 50}") for order in range(600)])
    await app.enqueue_many([shop.book_courier.call(order) for order in range(30)])
    for order in range(3):
        await app.group([shop.pack.call(order * 10 + item) for item in range(6)], then=shop.ship.step())
    for number in range(20):
        await shop.send_email.options(delay=600 + 60 * number).enqueue(f"{number}@example.org", "reminder")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        owned = sum(one.owned for one in await app.operator.instances() if one.label == "export-1")
        if owned >= 12:
            break
        await asyncio.sleep(0.1)
    await asyncio.to_thread(doomed.vanish)
    number = 1000
    while True:
        calls: list[Any] = []
        for _ in range(random.randrange(5, 40)):
            number += 1
            calls.append(shop.send_email.call(f"{number}@example.org", "your order", password="secret"))
            if number % 4 == 0:
                calls.append(shop.resize_image.call(number))
            if number % 40 == 0:
                calls.append(shop.charge_card.call(number, f"card-{number % 50}"))
        with contextlib.suppress(TrackedQueueError):
            await app.enqueue_many(calls)
            if random.random() < 0.02:
                await app.group([shop.pack.call(number + item) for item in range(6)], then=shop.ship.step())
            if random.random() < 0.05:
                await shop.book_courier.enqueue(number)
        await asyncio.sleep(1)
