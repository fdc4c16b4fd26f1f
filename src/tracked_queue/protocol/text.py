"""Text and bytes of Redis, where something else may have written what is not UTF-8."""

from __future__ import annotations


def to_text(data: bytes) -> str:
    """Text from Redis; bytes that are not UTF-8 stay visible, and `to_bytes` turns them back."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The bytes of an id or name, also of one that came from `to_text`."""
    return text.encode("utf-8", "surrogateescape")
