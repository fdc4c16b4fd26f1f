"""Celery's JSON: what kombu writes for a datetime, a Decimal, a UUID, and back."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ...model.plain import base_type

READ: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.datetime.fromisoformat,
    "date": lambda text: datetime.date.fromisoformat(text[:10]),
    "time": datetime.time.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": lambda found: uuid.UUID(found["hex"] if isinstance(found, dict) else found),
    "bytes": lambda text: text.encode("utf-8"),
    "base64": base64.b64decode,
}


def typed(value: Any) -> Any:
    """What Celery's JSON stands for. Raises ValueError, TypeError or KeyError for what kombu has not written."""
    if isinstance(value, dict):
        kind = value.get("__type__")
        if value.keys() == {"__type__", "__value__"} and isinstance(kind, str) and kind in READ:
            return READ[kind](value["__value__"])
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """A value as Celery's JSON has it; what that doesn't know stays, and is refused by name where it is stored."""
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        # A datetime is a date, too.
        kind = next(cls for cls in (datetime.datetime, datetime.date, datetime.time) if isinstance(value, cls))
        return {"__type__": kind.__name__, "__value__": value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"__type__": "decimal", "__value__": str(value)}
    if isinstance(value, uuid.UUID):
        return {"__type__": "uuid", "__value__": value.hex}
    return base_type(value)


def _key(key: Any) -> Any:
    """A key as JSON has it: text. What can't be one stays, and is refused by name where it is stored."""
    key = base_type(key)
    return json.dumps(key) if key is None or isinstance(key, bool | int | float) else key
