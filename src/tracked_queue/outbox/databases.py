"""
The relay's way to the outbox's table: rows are claimed in a transaction, passed on, and removed in that same transaction.

Three kinds: a sync connection in a thread of its own (psycopg, sqlite3, PyMySQL, an Engine of SQLAlchemy), an AsyncEngine, a
pool of asyncpg. None of their packages is imported here: what the application has brought is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from ..errors import UsageError
from .statements import Statements, dialect_of

T = TypeVar("T")


class Row(NamedTuple):
    """One row that was claimed."""

    id: int
    payload: Any  # bytes, but for what something else wrote


@dataclass(slots=True)
class Verdicts:
    """What became of a batch: rows that are done with, and why others can't be passed on."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


Send = Callable[[Sequence[Row]], Awaitable[Verdicts]]


class Database(Protocol):
    """Where the outbox is."""

    async def pass_on(self, namespace: str, most: int, send: Send) -> int:
        """Claim rows, send them, remove them, commit: how many there were. Nothing is changed if it raises."""

    async def ask(self, statement: Callable[[Statements], str], *values: Any) -> Sequence[Any]:
        """The first row that a statement gives, committed; empty if it gives none."""

    async def close(self) -> None:
        """Close what was opened here."""


class SyncDatabase:
    """
    A sync connection (PEP 249) that is used in one thread.

    Args:
        connect: Makes a connection; called again after an error.
        dialect: '' to see it by the connection's module.
        marks: '' likewise.
        begin: Called in the thread before each use.
    """

    def __init__(
        self, connect: Callable[[], Any], dialect: str = "", marks: str = "", begin: Callable[[], None] | None = None
    ) -> None:
        self._connect, self._begin = connect, begin
        self._given = dialect, marks
        self._connection: Any = None
        self._say = Statements("", "")
        self._thread: ThreadPoolExecutor | None = None

    async def pass_on(self, namespace: str, most: int, send: Send) -> int:
        """See Database."""
        rows = await self._run(self._claim, namespace, most)
        if not rows:
            return 0
        try:
            verdicts = await send(rows)
        except BaseException:
            await self._run(self._roll_back)
            raise
        await self._run(self._finish, verdicts)
        return len(rows)

    async def ask(self, statement: Callable[[Statements], str], *values: Any) -> Sequence[Any]:
        """See Database."""

        def asked() -> Sequence[Any]:
            cursor = self._cursor()
            cursor.execute(statement(self._say), values)
            found = cursor.fetchone() if cursor.description else ()
            self._connection.commit()
            return found or ()

        return await self._run(asked)

    async def close(self) -> None:
        """See Database."""
        if self._thread is not None:
            thread = self._thread
            await self._run(self._drop)
            self._thread = None
            thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        def guarded() -> T:
            try:
                if self._begin is not None:
                    self._begin()
                return function(*args)
            except BaseException:
                self._drop()
                raise

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracked_queue-outbox")
        # Shielded: what runs in a thread can't be stopped, and the next call waits for it there.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, guarded))

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
            module = type(self._connection).__module__.split(".")[0]
            dialect, marks = self._given
            self._say = Statements(dialect or dialect_of(_MODULES.get(module, module)), marks or _marks_of(module))
        return self._connection.cursor()

    def _claim(self, namespace: str, most: int) -> list[Row]:
        cursor = self._cursor()
        if self._say.dialect == "mysql":  # else the gaps between rows are locked too, and inserts wait
            self._connection.rollback()
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute(self._say.claim, (namespace, most))
        rows = [Row(int(id), payload) for id, payload in cursor.fetchall()]
        if not rows or not self._say.locks:
            self._connection.commit()
        return rows

    def _finish(self, verdicts: Verdicts) -> None:
        cursor = self._cursor()
        if verdicts.done:
            cursor.execute(self._say.delete(verdicts.done))
        for id, problem in verdicts.refused.items():
            cursor.execute(self._say.refuse, (problem, id))
        self._connection.commit()

    def _roll_back(self) -> None:
        if self._connection is not None:
            self._connection.rollback()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


_MODULES = {
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
    "sqlite3": "sqlite",
    "pymysql": "mysql",
    "MySQLdb": "mysql",
}


def _marks_of(module: str) -> str:
    return "?" if module == "sqlite3" else "%s"


class AsyncEngineDatabase:
    """An AsyncEngine of SQLAlchemy."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._say = Statements(dialect_of(engine.dialect.name), ":name")

    @contextlib.asynccontextmanager
    async def _transaction(self) -> Any:
        engine = self._engine
        if self._say.dialect == "mysql":
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        async with engine.begin() as connection:
            yield connection

    async def pass_on(self, namespace: str, most: int, send: Send) -> int:
        """See Database."""
        from sqlalchemy import text

        async with self._transaction() as connection:
            found = await connection.execute(text(self._say.claim), {"namespace": namespace, "most": most})
            rows = [Row(int(id), payload) for id, payload in found.all()]
            if rows and self._say.locks:
                await self._finish(connection, await send(rows))
        if rows and not self._say.locks:
            verdicts = await send(rows)
            async with self._transaction() as connection:
                await self._finish(connection, verdicts)
        return len(rows)

    async def _finish(self, connection: Any, verdicts: Verdicts) -> None:
        from sqlalchemy import text

        if verdicts.done:
            await connection.execute(text(self._say.delete(verdicts.done)))
        for id, problem in verdicts.refused.items():
            await connection.execute(text(self._say.refuse), {"problem": problem, "id": id})

    async def ask(self, statement: Callable[[Statements], str], *values: Any) -> Sequence[Any]:
        """See Database."""
        from sqlalchemy import text

        names = ("namespace", "own", "same")
        async with self._transaction() as connection:
            found = await connection.execute(text(statement(self._say)), dict(zip(names, values, strict=False)))
            return tuple(found.first() or ()) if found.returns_rows else ()

    async def close(self) -> None:
        """The application's engine stays open."""


class AsyncpgDatabase:
    """A pool of asyncpg, made by this function in the event loop that uses it."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make, self._say = make, Statements("postgresql", "$1")
        self._pool: Any = None

    async def _opened(self) -> Any:
        if self._pool is None:
            self._pool = await self._make()
        return self._pool

    async def pass_on(self, namespace: str, most: int, send: Send) -> int:
        """See Database."""
        pool = await self._opened()
        async with pool.acquire() as connection, connection.transaction():
            rows = [
                Row(found["id"], found["payload"]) for found in await connection.fetch(self._say.claim, namespace, most)
            ]
            if rows:
                verdicts = await send(rows)
                if verdicts.done:
                    await connection.execute(self._say.delete(verdicts.done))
                for id, problem in verdicts.refused.items():
                    await connection.execute(self._say.refuse, problem, id)
            return len(rows)

    async def ask(self, statement: Callable[[Statements], str], *values: Any) -> Sequence[Any]:
        """See Database."""
        pool = await self._opened()
        async with pool.acquire() as connection:
            found = await connection.fetchrow(statement(self._say), *values)
            return tuple(found) if found is not None else ()

    async def close(self) -> None:
        """See Database."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


def database_of(given: Any) -> Database:
    """
    The database that an outbox was given.

    Args:
        given: See Outbox.

    Raises:
        UsageError: It is none of these.
    """
    kind = type(given)
    name, module = kind.__name__, kind.__module__.split(".")[0]
    if module == "sqlalchemy" and name == "AsyncEngine":
        return AsyncEngineDatabase(given)
    if module == "sqlalchemy" and name == "Engine":
        marks = "?" if given.dialect.paramstyle == "qmark" else "%s"
        return SyncDatabase(given.raw_connection, dialect_of(given.dialect.name), marks)
    if inspect.iscoroutinefunction(given):
        return AsyncpgDatabase(given)
    if isinstance(given, str):
        return _of_url(given)
    if callable(getattr(given, "pass_on", None)):
        found: Database = given
        return found
    if callable(given):
        return SyncDatabase(given)
    raise UsageError(
        f"outbox: database={given!r}: give an Engine or AsyncEngine of SQLAlchemy, an `async def` that makes a pool of "
        "asyncpg, a postgresql:// or sqlite:/// URL, or a function that returns a connection"
    )


def _of_url(url: str) -> Database:
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):

        def connect() -> Any:
            try:
                import psycopg
            except ImportError:
                raise UsageError("outbox: a postgresql:// URL needs psycopg: pip install psycopg") from None
            return psycopg.connect(url)

        return SyncDatabase(connect, "postgresql", "%s")
    if scheme == "sqlite":
        import sqlite3

        return SyncDatabase(
            lambda: sqlite3.connect(url.partition("://")[2].removeprefix("/"), timeout=30), "sqlite", "?"
        )
    raise UsageError(
        f"outbox: database URL with the scheme {scheme!r}: it can be postgresql or sqlite; others by an Engine"
    )
