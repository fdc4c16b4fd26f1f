"""Text from elsewhere as it is shown: nothing in it acts, reorders or hides."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from ..model.plain import plain

# What may stay in text of several lines.
_LINES = "\n\t"


def shown(text: str, *, lines: bool = False) -> str:
    """Control characters, those that change the direction of writing, and other invisible ones as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (lines and char in _LINES) else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def finalize(value: Any) -> Any:
    """What a template puts out for a value."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, bool | int | float):
        return str(value)
    return shown(str(value))


def as_json(value: Any, most: int = 20_000) -> str:
    """Plain data as people read it, at most so many characters; whole numbers stay whole."""
    text = json.dumps(plain(value, exact=True), indent=2, ensure_ascii=False, allow_nan=False)
    return text if len(text) <= most else f"{text[:most]}\n… {len(text) - most} more characters"


def link(base: str, path: str, **names: Any) -> str:
    """A path below the prefix, with what is given as its query; names of any kind are percent-encoded."""
    given = {name.rstrip("_"): str(value) for name, value in names.items() if value is not None and value != ""}
    return f"{base}{path}" + (f"?{urlencode(given)}" if given else "")
