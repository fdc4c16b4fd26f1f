"""
How a job's record is asked for and read: the one place on Python's side.

What a fetch hands over is read by `FetchedJob`. Source: lua/include/record.lua, the one place on the scripts' side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .keys import Keys
from .text import to_bytes


def ask_fields(keys: Keys, job_id: str | bytes, names: Sequence[str]) -> tuple[Any, ...]:
    """The command for some fields of a record."""
    return ("HMGET", _key_of(keys, job_id), *names)


def read_fields(reply: Any, names: Sequence[str]) -> Sequence[bytes | None]:
    """Their values; None for what is not there, and for all of them where the key is not a record's."""
    return reply if isinstance(reply, list) else (None,) * len(names)


def ask_whole(keys: Keys, job_id: str | bytes) -> tuple[Any, ...]:
    """The command for a whole record."""
    return ("HGETALL", _key_of(keys, job_id))


def read_whole(reply: Any) -> dict[bytes, bytes] | None:
    """A record by its fields, empty for none; None where the key is not a record's."""
    return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else None


def _key_of(keys: Keys, job_id: str | bytes) -> bytes:
    return keys.record_of("").encode() + (job_id if isinstance(job_id, bytes) else to_bytes(job_id))
