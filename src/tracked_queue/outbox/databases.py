"""
The relay's way to the outbox's table: rows are claimed in a transaction, passed on, and removed in that same transaction.

Three kinds: a sync connection in a thread of its own (psycopg, sqlite3, PyMySQL, an Engine of SQLAlchemy), an AsyncEngine, a
pool of asyncpg. None of their packages is imported here: what the application has brought is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import anyio

from ..errors import UsageError
from .statements import Statements, dialect_of

T = TypeVar("T")

CLOSE_S = 2.0


class Row(NamedTuple):
    """One row that was claimed."""

    id: int
    payload: Any  # bytes, but for what something else wrote
    age_s: float  # since its insert


def _row(id: Any, payload: Any, age_s: Any) -> Row:
    """
    As a driver gives its columns: the age as a float or a Decimal, below 0 where the clock went back, and None where
    `created_at` is no time.
    """
    return Row(int(id), payload, max(0.0, float(age_s or 0.0)))


@dataclass(slots=True)
class Verdicts:
    """What became of a batch: rows that are done with, and why others can't be passed on. Any other row stays as it is."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows are wanted: of this namespace and at most this format, beyond the id `after`, at most so many."""

    namespace: str
    format: int
    after: int
    most: int


# Whether a job of this id is still to be passed on.
Waits = Callable[[str], Awaitable[bool]]
Send = Callable[[Sequence[Row], Waits], Awaitable[Verdicts]]


class Database(Protocol):
    """Where the outbox is."""

    async def pass_on(self, page: Page, send: Send) -> Sequence[Row]:
        """Claim rows, send them, do as the verdicts say, commit; the rows. Nothing is changed if it raises."""

    async def ask(self, statement: Callable[[Statements], str], **values: Any) -> Sequence[Any]:
        """The first row that a statement gives, committed; empty if it gives none."""

    async def close(self) -> None:
        """Close what was opened here."""


class _Thread:
    """One thread that does one thing after the other; it keeps no program from ending, unlike those of an executor."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]] | None] = (
            SimpleQueue()
        )
        threading.Thread(target=self._serve, name="tracked_queue-outbox", daemon=True).start()

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            loop, future, function = item
            try:
                value, error = function(), None
            except BaseException as raised:
                value, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_tell, future, value, error)

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Do this after what was asked for before; a cancelled future stops nothing."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._work.put((loop, future, function))
        return future

    def end(self) -> None:
        """After what was asked for."""
        self._work.put(None)


def _tell(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class SyncDatabase:
    """
    A sync connection (PEP 249) that is used in one thread.

    Args:
        connect: Makes a connection; called again after an error.
        dialect: '' to see it by the connection's module.
        marks: '' likewise.
        keep: Whether the connection stays open from one look to the next.
    """

    def __init__(self, connect: Callable[[], Any], dialect: str = "", marks: str = "", keep: bool = True) -> None:
        self._connect, self._given, self._keep = connect, (dialect, marks), keep
        self._connection: Any = None
        self._say = Statements("", "")
        self._thread: _Thread | None = None
        self._one = asyncio.Lock()

    async def pass_on(self, page: Page, send: Send) -> Sequence[Row]:
        """See Database."""
        async with self._one:
            try:
                rows = await self._run(lambda: self._claim(page))
                if rows:
                    verdicts = await send(rows, lambda id: self._waits(page.namespace, id))
                    await self._run(lambda: self._finish(verdicts))
            except BaseException:
                # Queued behind what the thread is doing, also when this task is cancelled and won't wait for it.
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await self._run(self._roll_back)
                raise
            return rows

    async def ask(self, statement: Callable[[Statements], str], **values: Any) -> Sequence[Any]:
        """See Database."""

        def asked() -> Sequence[Any]:
            cursor = self._cursor()
            cursor.execute(statement(self._say), tuple(values.values()))
            found = _plain(cursor.fetchone()) if cursor.description else ()
            self._connection.commit()
            self._let_go()
            return found

        async with self._one:
            return await self._run(asked)

    async def _waits(self, namespace: str, job_id: str) -> bool:
        def asked() -> bool:
            cursor = self._cursor()
            cursor.execute(self._say.waits, (namespace, job_id))
            return cursor.fetchone() is not None

        return await self._run(asked)

    async def close(self) -> None:
        """See Database. A connection that hangs is left to itself."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await asyncio.shield(thread.run(self._drop))
            thread.end()

    async def _run(self, function: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return function()
            except BaseException:
                self._drop()
                raise

        if self._thread is None:
            self._thread = _Thread()
        return await self._thread.run(guarded)

    # In the thread

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
            module = type(self._connection).__module__.split(".")[0]
            dialect, marks = self._given
            self._say = Statements(dialect or dialect_of(_MODULES.get(module, module)), marks or _marks_of(module))
        return self._connection.cursor()

    def _claim(self, page: Page) -> list[Row]:
        cursor = self._cursor()
        if self._say.isolation:
            self._connection.rollback()
            cursor.execute(self._say.isolation)
        cursor.execute(self._say.claim, (page.namespace, page.after, page.format, page.most))
        rows = [_row(*_plain(found)) for found in cursor.fetchall()]
        if not rows or not self._say.locks:
            self._connection.commit()
        if not rows:
            self._let_go()
        return rows

    def _finish(self, verdicts: Verdicts) -> None:
        cursor = self._cursor()
        if verdicts.done:
            cursor.execute(self._say.delete(verdicts.done))
        for id, problem in verdicts.refused.items():
            cursor.execute(self._say.refuse, (problem, id))
        self._connection.commit()
        self._let_go()

    def _roll_back(self) -> None:
        if self._connection is not None:
            self._connection.rollback()
            self._let_go()

    def _let_go(self) -> None:
        if not self._keep:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


def _plain(row: Any) -> Sequence[Any]:
    """A row as a sequence, also one that a factory has made a mapping."""
    return () if row is None else tuple(row.values()) if isinstance(row, Mapping) else row


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
        self._say = Statements(dialect_of(engine.dialect.name), ":name")
        isolated = engine.execution_options(isolation_level="READ COMMITTED")
        self._engine = isolated if self._say.isolation else engine

    async def pass_on(self, page: Page, send: Send) -> Sequence[Row]:
        """See Database."""
        from sqlalchemy import text

        asked = {"namespace": page.namespace, "after": page.after, "format": page.format, "most": page.most}
        async with self._engine.begin() as connection:
            found = await connection.execute(text(self._say.claim), asked)
            rows = [_row(*row) for row in found.all()]
            if rows and self._say.locks:
                await self._finish(connection, await send(rows, lambda id: self._waits(connection, page.namespace, id)))
        if rows and not self._say.locks:
            verdicts = await send(rows, lambda id: self._waits(None, page.namespace, id))
            async with self._engine.begin() as connection:
                await self._finish(connection, verdicts)
        return rows

    async def _waits(self, connection: Any, namespace: str, job_id: str) -> bool:
        from sqlalchemy import text

        if connection is None:
            async with self._engine.begin() as own:
                return await self._waits(own, namespace, job_id)
        found = await connection.execute(text(self._say.waits), {"namespace": namespace, "job_id": job_id})
        return found.first() is not None

    async def _finish(self, connection: Any, verdicts: Verdicts) -> None:
        from sqlalchemy import text

        if verdicts.done:
            await connection.execute(text(self._say.delete(verdicts.done)))
        for id, problem in verdicts.refused.items():
            await connection.execute(text(self._say.refuse), {"problem": problem, "id": id})

    async def ask(self, statement: Callable[[Statements], str], **values: Any) -> Sequence[Any]:
        """See Database."""
        from sqlalchemy import text

        async with self._engine.begin() as connection:
            found = await connection.execute(text(statement(self._say)), values)
            return tuple(found.first() or ()) if found.returns_rows else ()

    async def close(self) -> None:
        """The application's engine stays open."""


class AsyncpgDatabase:
    """A pool of asyncpg, made by this function in the event loop that uses it."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make, self._say = make, Statements("postgresql", "$1")
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._make()
            return self._pool

    async def pass_on(self, page: Page, send: Send) -> Sequence[Row]:
        """See Database."""
        pool = await self._opened()
        asked = page.namespace, page.after, page.format, page.most
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            rows = [_row(*found.values()) for found in await connection.fetch(self._say.claim, *asked)]
            if rows:

                async def waits(job_id: str) -> bool:
                    return await connection.fetchrow(self._say.waits, page.namespace, job_id) is not None

                verdicts = await send(rows, waits)
                if verdicts.done:
                    await connection.execute(self._say.delete(verdicts.done))
                for id, problem in verdicts.refused.items():
                    await connection.execute(self._say.refuse, problem, id)
            return rows

    async def ask(self, statement: Callable[[Statements], str], **values: Any) -> Sequence[Any]:
        """See Database."""
        pool = await self._opened()
        async with pool.acquire() as connection:
            found = await connection.fetchrow(statement(self._say), *values.values())
            return tuple(found) if found is not None else ()

    async def close(self) -> None:
        """See Database."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


# One connection for all threads: what one of them has not committed, the relay would see, and commit.
_SHARED_POOLS = ("StaticPool", "SingletonThreadPool", "AssertionPool")


def database_of(given: Any) -> Database:
    """
    The database that an outbox was given.

    Args:
        given: See Outbox.

    Raises:
        UsageError: It is none of these.
    """
    names = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(given).__mro__}
    if ("sqlalchemy", "AsyncEngine") in names or ("sqlalchemy", "Engine") in names:
        pool = type(given.pool).__name__.removeprefix("Async")
        if pool in _SHARED_POOLS:
            raise UsageError(
                f"outbox: this engine has a {pool}, one connection for everything, so the relay would commit what others "
                "have not: name a database in a file or on a server"
            )
    if ("sqlalchemy", "AsyncEngine") in names:
        return AsyncEngineDatabase(given)
    if ("sqlalchemy", "Engine") in names:
        marks = "?" if given.dialect.paramstyle == "qmark" else "%s"
        return SyncDatabase(given.raw_connection, dialect_of(given.dialect.name), marks, keep=False)
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

        path = url.partition("://")[2].removeprefix("/")
        return SyncDatabase(lambda: sqlite3.connect(path, timeout=30), "sqlite", "?")
    raise UsageError(
        f"outbox: database URL with the scheme {scheme!r}: it can be postgresql or sqlite; others by an Engine"
    )
