"""Anything that this library shows, as data that JSON can hold."""

from __future__ import annotations

import base64
import dataclasses
import math
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# Beyond it a number of JavaScript, and of much that reads JSON, is rounded.
EXACT = 2**53 - 1
# Deeper than any value that can be stored.
MOST_DEEP = 300


def plain(item: Any, *, exact: bool = False, depth: int = 0) -> Any:
    """
    Dataclasses, times and plain data for JSON.

    What JSON lacks is written in a form that a program can recognise: bytes as {"base64": ...}, NaN and the infinities
    as text, a mapping whose keys are not all text as {"pairs": [[key, value], ...]}.

    Args:
        exact: Whole numbers that JavaScript would round are written as text.
    """

    def inner(value: Any) -> Any:
        return plain(value, exact=exact, depth=depth + 1)

    if depth > MOST_DEEP:
        return "…"
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: inner(getattr(item, field.name)) for field in dataclasses.fields(item)}
    if isinstance(item, bool | int | str | None):
        if exact and isinstance(item, int) and abs(item) > EXACT:
            return str(item) if abs(item) < 1 << 4096 else f"a whole number of {item.bit_length()} bits"
        return item.encode("utf-8", "replace").decode() if isinstance(item, str) else item
    if isinstance(item, float):
        return item if math.isfinite(item) else str(item)
    if isinstance(item, datetime):
        return item.isoformat()
    if isinstance(item, bytes):
        return {"base64": base64.b64encode(item).decode()}
    if isinstance(item, Mapping):
        if all(isinstance(key, str) for key in item):
            return {inner(key): inner(value) for key, value in item.items()}
        return {"pairs": [[inner(key), inner(value)] for key, value in item.items()]}
    if isinstance(item, list | tuple | set | frozenset):
        return [inner(value) for value in item]
    return repr(item)


def base_type(value: Any) -> Any:
    """Text or a number of a class of its own (an enum's member, safe or lazy text of Django) as plain text or number."""
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if type(value) is int else int(value)
    if isinstance(value, float):
        return value if type(value) is float else float(value)
    django = sys.modules.get("django.utils.functional")
    return str(value) if django is not None and isinstance(value, django.Promise) else value
