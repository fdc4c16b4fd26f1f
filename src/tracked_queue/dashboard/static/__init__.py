"""The style sheet and the script, under names that change with their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class File:
    """One of them."""

    data: bytes
    kind: str


def _load(name: str, kind: str) -> tuple[str, File]:
    data = resources.files(__package__).joinpath(name).read_bytes()
    stem, _, ending = name.partition(".")
    return f"/static/{stem}.{hashlib.blake2s(data, digest_size=6).hexdigest()}.{ending}", File(data, kind)


STYLE, _style = _load("dashboard.css", "text/css")
SCRIPT, _script = _load("dashboard.js", "text/javascript")
ICON, _icon = _load("icon.svg", "image/svg+xml")
STATIC = {STYLE: _style, SCRIPT: _script, ICON: _icon}
