"""A shop on Flask and SQLAlchemy whose receipts are written by jobs."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import click
from flask import Flask, current_app
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from tracked_queue import TrackedQueue

web = Flask(__name__)
web.config["SHOP"] = "The Corner Shop"
engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///shop.db"))
Session = scoped_session(sessionmaker(engine))
queue = TrackedQueue()


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    receipt: Mapped[str | None]


# Around each job, in the job's own thread: Flask's app context, and inside of it the thread's database session.


@queue.thread_context
def app_context() -> AbstractContextManager[object]:
    return web.app_context()


@queue.thread_context
@contextmanager
def session() -> Iterator[None]:
    try:
        yield
        Session.commit()  # if it fails, so does the job
    finally:
        Session.remove()  # rolls back what was not committed


@queue.thread_lifespan
@contextmanager
def connections() -> Iterator[None]:
    yield
    Session.remove()


@queue.task()
def write_receipt(order_id: int) -> None:
    order = Session.get_one(Order, order_id)
    order.receipt = f"{current_app.config['SHOP']}: {order.item}"


# The shop itself


@web.cli.command()
def prepare() -> None:
    """Make the tables."""
    Base.metadata.create_all(engine)


@web.cli.command()
@click.argument("item")
def order(item: str) -> None:
    """Place an order."""
    with Session.begin():
        placed = Order(item=item)
        Session.add(placed)
    write_receipt.enqueue_sync(placed.id)
    print(f"order {placed.id} is placed")


@web.cli.command()
def orders() -> None:
    """List the orders."""
    for placed in Session.query(Order).order_by(Order.id):
        print(placed.id, placed.receipt or "no receipt yet")
