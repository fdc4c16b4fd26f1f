"""ENQUEUE="outbox": jobs in a table of Django's database, and the relay's own connection to it."""

from __future__ import annotations

from typing import Any

from django.db import connections

from ..app import TrackedQueue
from ..outbox import Outbox
from ..outbox.databases import SyncDatabase
from ..outbox.statements import dialect_of


def outbox_of(app: TrackedQueue, alias: str) -> Outbox:
    """The outbox in a database of Django; its relay runs in the workers of the app."""

    def connect() -> Any:
        # One of its own, in the relay's thread: Django's are in autocommit mode, and recycled at the ends of jobs.
        connection = connections.create_connection(alias)
        connection.set_autocommit(False)
        return connection

    return Outbox(app, SyncDatabase(connect, dialect_of(connections[alias].vendor), "%s"))
