"""Finding, joining and naming the Lua files; no policy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# What every script begins with. Dragonfly refuses keys that were not declared unless its own first line allows it; for
# all others it is a comment. Redis 6.2 with `lua-replicate-commands no` refuses a write after TIME unless the script
# asks for its effects to be replicated; later servers always do that, and some no longer have the function.
_HEAD = """--!df flags=allow-undeclared-keys
if redis.replicate_commands then redis.replicate_commands() end
"""
_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One transition's Lua text with its includes joined, and the hash by which the server knows it."""

    name: str
    text: str
    sha: str


@cache
def load_scripts(clock: str = "now_ms") -> dict[str, Script]:
    """
    Every transition's script by name.

    Args:
        clock: The include that stands for the clock: `now_ms`, or in tests `now_ms_test`, which reads a key.
    """
    folder = files("tracked_queue") / "lua"
    found = {}
    for path in sorted(folder.iterdir(), key=lambda item: item.name):
        if path.name.endswith(".lua"):
            name = path.name.removesuffix(".lua")
            found[name] = _join(name, path.read_text("utf-8"), clock)
    return found


def make_script(name: str, source: str, clock: str = "now_ms") -> Script:
    """A script from changed text: how the tests put a fault into one."""
    return _join(name, source, clock)


def read_source(name: str) -> str:
    """A script's own file, unjoined."""
    return (files("tracked_queue") / "lua" / f"{name}.lua").read_text("utf-8")


def _join(name: str, source: str, clock: str) -> Script:
    folder = files("tracked_queue") / "lua" / "include"

    def included(match: re.Match[str]) -> str:
        part = clock if match[1] == "now_ms" else match[1]
        return _code((folder / f"{part}.lua").read_text("utf-8"))

    # Comments of the header stay in the file and are not sent: the text is what the server hashes and keeps.
    text = _HEAD + _code(_INCLUDE.sub(included, source))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _code(text: str) -> str:
    """The text without comment lines, except include lines, so that nested includes are still found."""
    lines = (line for line in text.splitlines() if not line.startswith("--") or _INCLUDE.match(line))
    return "\n".join(lines) + "\n"
