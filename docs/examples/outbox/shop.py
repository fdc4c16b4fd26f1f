"""Orders in a database, and their receipts as jobs of the same transaction."""

import asyncio
import os
import sys

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy import select, text

from tracked_queue import TrackedQueue
from tracked_queue.outbox import Outbox, ddl

# For PostgreSQL: postgresql+asyncpg://user@host/database
engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db"))
Session = async_sessionmaker(engine, expire_on_commit=False)
app = TrackedQueue()
outbox = Outbox(app, engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    receipt: Mapped[str | None]


@app.task()
async def write_receipt(order_id: int) -> None:
    async with Session.begin() as session:
        order = await session.get_one(Order, order_id)
        order.receipt = f"one {order.item}"


async def place(session: AsyncSession, item: str) -> Order:
    """What a view does, in the session of its request."""
    order = Order(item=item)
    session.add(order)
    await session.flush()  # the order has its number
    await outbox.enqueue(session, write_receipt.call(order.id))
    if item == "nothing":
        raise ValueError("nothing can't be ordered")
    return order


async def main(command: str, *items: str) -> None:
    match command:
        case "prepare":
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
                for statement in filter(str.strip, ddl(engine.dialect.name).split(";")):
                    await connection.execute(text(statement))
        case "order":
            for item in items:
                try:
                    async with Session.begin() as session:
                        order = await place(session, item)
                    print(f"order {order.id} is placed")
                except ValueError as error:
                    print(error)
        case "orders":
            async with Session() as session:
                for order in await session.scalars(select(Order).order_by(Order.id)):
                    print(order.id, order.receipt or "no receipt yet")
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
