"""The application of `demo --dashboard`: a small shop, with what goes right and wrong in one."""

from __future__ import annotations

import asyncio
import random

from ..app import TrackedQueue
from ..model.constraints import Concurrency
from ..model.context import current_job
from ..model.retry import Fixed

app = TrackedQueue(namespace="shop")


@app.cron("*/5 * * * *", name="nightly-report", tz="Europe/Berlin")
@app.task(name="shop.report", queue="reports")
async def report() -> str:
    """Adds up the day."""
    job = current_job()
    for step in range(10):
        await job.progress(step, 10, "adding up")
        await asyncio.sleep(0.5)
    return "done"


@app.every(15, name="stock")
@app.task(name="shop.sync_stock", queue="default")
async def sync_stock() -> int:
    """Asks the warehouse."""
    await asyncio.sleep(random.uniform(0.05, 0.4))
    return random.randrange(1000)


@app.task(name="shop.send_email", queue="emails")
async def send_email(to: str, subject: str, password: str = "") -> None:
    """A quick one."""
    await asyncio.sleep(random.uniform(0.01, 0.12))


@app.task(name="shop.resize_image", queue="images", max_attempts=3, retry=Fixed(20))
async def resize_image(number: int) -> int:
    """Takes a moment, and fails now and then."""
    await asyncio.sleep(random.uniform(0.1, 1.5))
    if number % 23 == 0:
        raise OSError(f"image {number} ends in mid-file")
    return number


@app.task(name="shop.charge_card", queue="payments", max_attempts=1)
async def charge_card(order: int, card: str) -> None:
    """Some banks refuse."""
    await asyncio.sleep(0.05)
    if order % 3 == 0:
        raise PermissionError(f"order {order}: insufficient funds on '{card}'")
    if order % 7 == 0:
        raise TimeoutError(f"the bank did not answer within {order % 40 + 5} s")


@app.task(name="shop.book_courier", queue="shipping", limit=Concurrency(2, name="courier-api"))
async def book_courier(order: int) -> None:
    """The courier takes two calls at a time, and is slow."""
    await asyncio.sleep(20)


@app.task(name="shop.export", queue="exports", timeout=None)
async def export(part: int) -> None:
    """Long; it is what the lost machine was at."""
    await asyncio.sleep(3600)


@app.task(name="shop.newsletter", queue="newsletter")
async def newsletter(number: int) -> None:
    """Its queue is paused."""


@app.task(name="shop.invoice", queue="invoices")
async def invoice(number: int) -> None:
    """Nobody serves its queue."""


@app.task(name="shop.pack", queue="default")
async def pack(item: int) -> int:
    """A part of an order."""
    await asyncio.sleep(random.uniform(2, 30))
    return item


@app.task(name="shop.ship", queue="default")
async def ship(items: list[int | None]) -> int:
    """When all parts are packed."""
    await asyncio.sleep(1)
    return len(items)
