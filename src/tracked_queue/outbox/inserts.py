"""Writing a row in the transaction that the application has open, on whatever connection it has."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .statements import Statements, dialect_of

_ASYNC = "outbox: this is an async connection: write `await outbox.enqueue(...)`"
_SYNC = "outbox: this is a sync connection: write outbox.enqueue_sync(...)"
_DRIVERS = {"psycopg": ("postgresql", "%s"), "psycopg2": ("postgresql", "%s"), "sqlite3": ("sqlite", "?"),
            "pymysql": ("mysql", "%s"), "MySQLdb": ("mysql", "%s")}  # fmt: skip

Values = tuple[str, str, bytes]


def insert_sync(connection: Any, values: Values) -> None:
    """
    Write a row.

    Args:
        connection: A Session, scoped_session or Connection of SQLAlchemy; a connection or cursor of psycopg, psycopg2, sqlite3,
            PyMySQL or mysqlclient; a connection of Django.

    Raises:
        UsageError: It is something else.
    """
    kind, module = type(connection), _module_of(connection)
    if module == "sqlalchemy":
        if "Async" in kind.__name__ or "async" in kind.__name__:
            raise UsageError(_ASYNC)
        sql, named = _of_sqlalchemy(connection, values)
        connection.execute(sql, named)
    elif module == "django" and hasattr(connection, "vendor"):
        with connection.cursor() as cursor:
            cursor.execute(Statements(dialect_of(connection.vendor), "%s").insert, values)
    elif module in _DRIVERS:
        if kind.__name__.startswith("Async"):
            raise UsageError(_ASYNC)
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
    kind, module = type(connection), _module_of(connection)
    if module == "sqlalchemy":
        if "Async" not in kind.__name__ and "async" not in kind.__name__:
            raise UsageError(_SYNC)
        sql, named = _of_sqlalchemy(connection, values)
        await connection.execute(sql, named)
    elif module == "asyncpg":
        await connection.execute(Statements("postgresql", "$1").insert, *values)
    elif module == "psycopg":
        if not kind.__name__.startswith("Async"):
            raise UsageError(_SYNC)
        await connection.execute(Statements("postgresql", "%s").insert, values)
    elif module in _DRIVERS or module == "django":
        raise UsageError(_SYNC)
    else:
        raise _unknown(connection)


def _of_sqlalchemy(connection: Any, values: Values) -> tuple[Any, dict[str, Any]]:
    from sqlalchemy import text

    # A session may have an engine for each table, and then has to be told which one is meant.
    bind = connection if hasattr(connection, "dialect") else connection.get_bind()
    named = dict(zip(("job_id", "namespace", "payload"), values, strict=True))
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
