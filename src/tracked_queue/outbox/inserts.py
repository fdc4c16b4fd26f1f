"""Writing a row in the transaction that the application has open, on whatever connection it has."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .statements import Statements, dialect_of

_ASYNC = "outbox: this is an async connection: write `await outbox.enqueue(...)`"
_SYNC = "outbox: this is a sync connection: write outbox.enqueue_sync(...)"
_DRIVERS = {"psycopg": ("postgresql", "%s"), "psycopg2": ("postgresql", "%s"), "sqlite3": ("sqlite", "?"),
            "pymysql": ("mysql", "%s"), "MySQLdb": ("mysql", "%s")}  # fmt: skip

Values = tuple[str, str, bytes, int]


def insert_sync(connection: Any, values: Values) -> None:
    """
    Write a row.

    Args:
        connection: A Session, scoped_session or Connection of SQLAlchemy; a connection or cursor of psycopg, psycopg2, sqlite3,
            PyMySQL or mysqlclient; a connection of Django.

    Raises:
        UsageError: It is something else.
    """
    module = _module_of(connection)
    if module == "asyncpg" or _is_async(connection):
        raise UsageError(_ASYNC)
    if module == "sqlalchemy":
        sql, named = _of_sqlalchemy(connection, values)
        connection.execute(sql, named)
    elif module == "django" and hasattr(connection, "vendor"):
        with connection.cursor() as cursor:
            cursor.execute(Statements(dialect_of(connection.vendor), "%s").insert, values)
    elif module in _DRIVERS:
        statements = Statements(*_DRIVERS[module])
        if hasattr(connection, "cursor"):
            connection.cursor().execute(statements.insert, values)
        else:
            connection.execute(statements.insert, values)
    else:
        raise _unknown(connection)


async def insert(connection: Any, values: Values) -> None:
    """
    Write a row.

    Args:
        connection: An AsyncSession or AsyncConnection of SQLAlchemy, an AsyncConnection of psycopg, or one of asyncpg.

    Raises:
        UsageError: It is something else.
    """
    module = _module_of(connection)
    if module == "asyncpg":
        if any(kind.__name__ == "Pool" for kind in type(connection).__mro__):
            raise UsageError(
                "outbox: this is a pool, whose connections have no transaction in common: give the connection"
            )
        await connection.execute(Statements("postgresql", "$1").insert, *values)
    elif module in (*_DRIVERS, "django", "sqlalchemy") and not _is_async(connection):
        raise UsageError(_SYNC)
    elif module == "sqlalchemy":
        sql, named = _of_sqlalchemy(connection, values)
        await connection.execute(sql, named)
    elif module == "psycopg":
        await connection.execute(Statements("postgresql", "%s").insert, values)
    else:
        raise _unknown(connection)


def _is_async(connection: Any) -> bool:
    """Also for a subclass under another name, and for async_scoped_session."""
    names = [kind.__name__ for kind in type(connection).__mro__]
    return any(name.startswith(("Async", "async_")) for name in names)


def _of_sqlalchemy(connection: Any, values: Values) -> tuple[Any, dict[str, Any]]:
    from sqlalchemy import text
    from sqlalchemy.exc import UnboundExecutionError

    try:
        bind = connection if hasattr(connection, "dialect") else connection.get_bind()
    except UnboundExecutionError:
        raise UsageError(
            "outbox: this session has an engine for each model: give session.connection(bind_arguments={'mapper': TheModel}), "
            "the connection of the rows that the job is about"
        ) from None
    named = dict(zip(("job_id", "namespace", "payload", "format"), values, strict=True))
    return text(Statements(dialect_of(bind.dialect.name), ":name").insert), named


def _module_of(connection: Any) -> str:
    """The package that it comes from, also of a subclass."""
    packages = [kind.__module__.split(".")[0] for kind in type(connection).__mro__]
    return next((name for name in packages if name in ("sqlalchemy", "django", "asyncpg", *_DRIVERS)), packages[0])


def _unknown(connection: Any) -> UsageError:
    kind = type(connection)
    return UsageError(
        f"outbox: {kind.__module__}.{kind.__qualname__} is no connection that it knows: a session or connection of SQLAlchemy, "
        "psycopg, asyncpg, sqlite3, PyMySQL or Django"
    )
