"""Databases for these tests: SQLite, and PostgreSQL and MariaDB where they are installed; each with each of its drivers."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests import mariadb, postgres
from tracked_queue import TrackedQueue
from tracked_queue.outbox import Outbox, ddl


@dataclass
class Way:
    """One way to a database: what writes, and what the relay is given."""

    name: str
    write: Callable[[Outbox, Any, bool], Any]  # a call is written, and committed or rolled back
    database: Any
    execute: Callable[[str], list[Any]]

    @property
    def dialect(self) -> str:
        """Of its database."""
        return dialect_by(self.name)


def dialect_by(name: str) -> str:
    return "sqlite" if "sqlite" in name else "mysql" if "my" in name else "postgresql"


SYNC = ["sqlite3", "engine-sqlite"]
ASYNC = ["aiosqlite"]
# `make test` has SQLite, `make test-outbox` all that is installed.
ALL = os.environ.get("TEST_OUTBOX") == "all"
if ALL and postgres.program("initdb"):
    SYNC += ["psycopg", "engine-psycopg"]
    ASYNC += ["asyncpg", "engine-asyncpg", "async-psycopg"]
if ALL and mariadb.installed():
    SYNC += ["pymysql", "engine-pymysql"]
    ASYNC += ["asyncmy"] if importlib.util.find_spec("asyncmy") else []


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    """The ways to a database are what varies here."""
    return "asyncio"


@pytest.fixture(scope="session")
def pg() -> Iterator[postgres.Postgres]:
    server = postgres.Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def maria() -> Iterator[mariadb.MariaDb]:
    server = mariadb.MariaDb()
    yield server
    server.close()


@pytest.fixture(params=SYNC + ASYNC)
async def way(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Way]:
    name = request.param
    async for made in way_of(name, request, tmp_path):
        yield made


async def way_of(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Way]:
    connect, url, database = _place(name, request, tmp_path)

    def execute(sql: str) -> list[Any]:
        connection = connect()
        cursor = connection.cursor()
        for statement in filter(str.strip, sql.split(";")):
            cursor.execute(statement)
        found = list(cursor.fetchall()) if cursor.description else []
        connection.commit()
        connection.close()
        return found

    execute(ddl(dialect_by(name)))
    execute(ddl(dialect_by(name)))  # changes nothing
    execute("delete from tracked_queue_outbox")
    ends: list[Any] = []
    if name.startswith("engine-") and name != "engine-asyncpg":
        engine = create_engine(url)
        ends.append(engine.dispose)

        def write(outbox: Outbox, call: Any, commit: bool) -> Any:
            with engine.connect() as connection:
                job = outbox.enqueue_sync(connection, call)
                connection.commit() if commit else connection.rollback()
            return job

        database = engine
    elif name in ("aiosqlite", "engine-asyncpg", "asyncmy"):
        async_engine = create_async_engine(url)

        async def write(outbox: Outbox, call: Any, commit: bool) -> Any:
            async with async_engine.connect() as connection:
                job = await outbox.enqueue(connection, call)
                await (connection.commit() if commit else connection.rollback())
            return job

        database = async_engine
    elif name == "asyncpg":
        import asyncpg

        async def write(outbox: Outbox, call: Any, commit: bool) -> Any:
            connection = await asyncpg.connect(**database_arguments)
            transaction = connection.transaction()
            await transaction.start()
            job = await outbox.enqueue(connection, call)
            await (transaction.commit() if commit else transaction.rollback())
            await connection.close()
            return job

        server = request.getfixturevalue("pg")
        database_arguments = {"host": str(server.folder), "user": "postgres", "database": "postgres"}

        async def database() -> Any:
            return await asyncpg.create_pool(**database_arguments, min_size=1, max_size=2)
    elif name == "async-psycopg":
        import psycopg

        async def write(outbox: Outbox, call: Any, commit: bool) -> Any:
            connection = await psycopg.AsyncConnection.connect(request.getfixturevalue("pg").dsn)
            job = await outbox.enqueue(connection, call)
            await (connection.commit() if commit else connection.rollback())
            await connection.close()
            return job
    else:

        def write(outbox: Outbox, call: Any, commit: bool) -> Any:
            connection = connect()
            job = outbox.enqueue_sync(connection, call)
            connection.commit() if commit else connection.rollback()
            connection.close()
            return job

    yield Way(name, write, database, execute)
    for end in ends:
        end()
    if name in ("aiosqlite", "engine-asyncpg", "asyncmy"):
        await async_engine.dispose()


def _place(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str, Any]:
    """How to connect, SQLAlchemy's URL, and what the relay is given unless it is an engine."""
    if "sqlite" in name:
        path = tmp_path / "db.sqlite3"
        driver = "+aiosqlite" if name == "aiosqlite" else ""
        return lambda: sqlite3.connect(path, timeout=30), f"sqlite{driver}:///{path}", f"sqlite:///{path}"
    if "my" in name:
        import pymysql

        socket = request.getfixturevalue("maria").socket
        driver = "asyncmy" if name == "asyncmy" else "pymysql"

        def connect() -> Any:
            return pymysql.connect(unix_socket=socket, user="root", database="outbox")

        return connect, f"mysql+{driver}://root@/outbox?unix_socket={socket}", connect
    import psycopg

    server = request.getfixturevalue("pg")
    driver = "asyncpg" if name == "engine-asyncpg" else "psycopg"
    url = f"postgresql+{driver}://postgres@/postgres?host={server.folder}"
    return lambda: psycopg.connect(server.dsn), url, f"postgresql://postgres@/postgres?host={server.folder}"


@pytest.fixture
async def outbox(app: TrackedQueue, way: Way) -> AsyncIterator[Outbox]:
    made = Outbox(app, way.database, poll=0.05)
    yield made
    await made.aclose()
