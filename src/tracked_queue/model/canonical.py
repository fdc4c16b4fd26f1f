"""
The canonical form of a value in a key: two values have the same form exactly if they are equal, in whatever order,
timezone or spelling they were given, and in any process.

Each part is its kind, its length and its text (`i1:5`, `s6:send:5`), so that no two lists of parts read alike, whatever
is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any
from uuid import UUID

from ..errors import UsageError

# A key that is longer, or has unprintable characters, is replaced by its hash.
MAX_KEY = 120
# Types whose values are identified by their text.
PLAIN_TEXT = (PurePath, IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network)


def part(kind: str, text: str) -> str:
    """One part of a key."""
    return f"{kind}{len(text)}:{text}"


def short(text: str) -> str:
    """The text of a key; for a long one a hash, whose first character no part begins with."""
    if len(text) <= MAX_KEY and text.isprintable():
        return text
    return "#" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def canonical(value: Any) -> str:
    """
    The form of a value.

    Raises:
        UsageError: It is of a type that has none, such as a coroutine or an object without a value.
    """
    known = _BY_TYPE.get(type(value))
    if known is not None:
        return known(value)
    for kind, form in _BY_BASE:
        if isinstance(value, kind):
            return form(value)
    fields = fields_of(value)
    if fields is not None:
        return part("o", part("s", type(value).__qualname__) + _of_map(fields.items()))
    if isinstance(value, PLAIN_TEXT):
        return part("p", part("s", type(value).__qualname__) + str(value))
    raise UsageError(f"a {type(value).__qualname__} can't be part of a key; give text, a number, or a tuple of them")


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """The fields of an object of a class that is made of fields; None for another object."""
    kind = type(value)
    if is_dataclass(value):
        return {name: getattr(value, name) for name in kind.__dataclass_fields__}
    names = getattr(kind, "__struct_fields__", None)  # msgspec
    if names is not None:
        return {name: getattr(value, name) for name in names}
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return {item.name: getattr(value, item.name) for item in attributes}
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_fields"):
        return {**value.__dict__, **(getattr(value, "__pydantic_extra__", None) or {})}
    return None


def _float(value: float) -> str:
    return part("f", repr(value + 0.0 if value else 0.0))


def _decimal(value: Decimal) -> str:
    """All its digits: arithmetic would round them to the context's precision, and two numbers would be one."""
    if not value.is_finite():
        return part("d", str(value))
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    short_text = text.rstrip("0")
    if not short_text:
        return part("d", "0")
    return part("d", f"{'-' * sign}{short_text}E{int(exponent) + len(text) - len(short_text)}")


def _moment(value: datetime) -> str:
    offset = value.utcoffset()
    if offset is None:
        return part("T", value.isoformat())
    # Microseconds, which can be given even where the moment in UTC is before the year 1 or after 9999.
    return part("t", str((value.replace(tzinfo=None) - datetime.min - offset) // timedelta(microseconds=1)))


def _of_map(items: Iterable[tuple[Any, Any]]) -> str:
    return "".join(key + value for key, value in sorted((canonical(key), canonical(value)) for key, value in items))


_BY_TYPE: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "n0:",
    bool: lambda value: part("b", str(int(value))),
    int: lambda value: part("i", str(value)),
    float: _float,
    str: lambda value: part("s", value),
}
# In this order: an Enum may be a str or an int as well, and a datetime is a date.
_BY_BASE: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (Enum, lambda value: part("e", part("s", type(value).__qualname__) + canonical(value.value))),
    (str, lambda value: part("s", str(value))),
    (int, lambda value: part("i", str(int(value)))),
    (float, _float),
    (bytes | bytearray | memoryview, lambda value: part("y", bytes(value).hex())),
    (Decimal, _decimal),
    (datetime, _moment),
    (date, lambda value: part("D", value.isoformat())),
    (time, lambda value: part("h", value.isoformat())),
    (timedelta, lambda value: part("a", str(value // timedelta(microseconds=1)))),
    (UUID, lambda value: part("u", value.hex)),
    (set | frozenset, lambda value: part("S", "".join(sorted(map(canonical, value))))),
    (Mapping, lambda value: part("m", _of_map(value.items()))),
    (list | tuple, lambda value: part("l", "".join(map(canonical, value)))),
)
