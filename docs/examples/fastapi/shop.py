"""A shop on FastAPI: endpoints and jobs share the lifespan and the dependencies; a browser sees how far a job is."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from tracked_queue import TrackedQueue, current_job, injected
from tracked_queue.asgi import attach, job_events, lifespan_of

queue = TrackedQueue(lifespan=lifespan_of("shop:web"))  # a worker enters the lifespan below, once


@contextlib.asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[dict[str, str]]:
    with contextlib.closing(sqlite3.connect("shop.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT, receipt TEXT)")
    yield {"greeting": "Thank you"}


web = FastAPI(lifespan=lifespan)
attach(web, queue)


def database() -> Iterator[sqlite3.Connection]:
    """For a request and for a job alike: committed if it went well, and a commit that fails is the job's failure."""
    connection = sqlite3.connect("shop.db", check_same_thread=False)
    with contextlib.closing(connection), connection:
        yield connection


Database = Annotated[sqlite3.Connection, Depends(database)]


@queue.task(name="receipt")
async def receipt(order: int, database: Database = injected()) -> str:
    for done in range(3):
        await current_job().progress(done + 1, 3)
        await asyncio.sleep(0.05)
    (item,) = database.execute("SELECT item FROM orders WHERE id = ?", (order,)).fetchone()
    text = f"{current_job().state.greeting} for your order of {item}"
    database.execute("UPDATE orders SET receipt = ? WHERE id = ?", (text, order))
    return text


@web.post("/orders/{item}")
async def place(item: str, database: Database) -> dict[str, str | int]:
    order = database.execute("INSERT INTO orders (item) VALUES (?)", (item,)).lastrowid or 0
    database.commit()  # before the job is there: it needs the row
    job = await receipt.options(id=f"receipt-{order}").enqueue(order)
    return {"order": order, "job": job.id}


@web.get("/receipts/{order}")
async def progress(order: int) -> StreamingResponse:
    return await job_events(queue.job(f"receipt-{order}"), result=True)
