"""
Reading pickles without running them: plain values, and a few kinds that are made of plain values. Anything else is refused.

A pickle is a program that may call anything that can be imported. Here nothing is imported: a name that is not in the table
below is an error, and there is no switch to change that.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import uuid
from collections.abc import Mapping
from typing import Any

from ..errors import UnreadableCallError

MAX_BYTES = 16 * 1024 * 1024

_SAFE: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
    ("builtins", "tuple"): tuple,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
}
_PROBLEMS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, MemoryError, OverflowError,
    RecursionError, ImportError, UnicodeError,
)  # fmt: skip


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, more: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = {**_SAFE, **more}

    def find_class(self, module: str, name: str) -> Any:
        found = self._known.get((module, name))
        if found is None:
            raise UnreadableCallError(
                f"its arguments contain a {module}.{name}, which is not read: send plain data or an id"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise UnreadableCallError("its pickle refers to something outside of itself")


def read(data: bytes, more: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """
    What a pickle of plain data holds.

    Args:
        more: Further names, and what stands for them.

    Raises:
        UnreadableCallError: Something else is in it, or it is no pickle.
    """
    if len(data) > MAX_BYTES:
        raise UnreadableCallError(f"its payload has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        return _Reader(data, more or {}).load()
    except UnreadableCallError:
        raise
    except _PROBLEMS as error:
        raise UnreadableCallError(
            f"its payload is no pickle that can be read: {type(error).__name__}: {error}"
        ) from None
