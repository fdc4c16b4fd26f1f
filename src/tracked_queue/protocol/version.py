"""
Which protocol this version speaks: the formats of what is stored, and what the scripts rely on.

A namespace has one number, the highest that any program has written there. A version reads what it writes, what was written
before in the same major version, and, in the release that prepares a change, the next: releases next to each other work
together, and jobs that have waited for long are read.
Source: lua/protocol.lua; docs/operations/upgrade.md for those who deploy, docs/how-to/contribute.md for those who change it.
"""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

WRITES = 1
OLDEST, NEWEST = 1, 1


@functools.cache
def package_version() -> str:
    """The version of this package, as instances show it."""
    try:
        return version("tracked-queue")
    except PackageNotFoundError:
        return "unknown"


def number_in(stored: bytes | None) -> int:
    """The number that a key holds; 0 for none, and for what something else wrote there, as lua/include/spoken.lua reads it."""
    return int(stored) if stored is not None and stored.isdigit() and len(stored) < 16 else 0


def misfit(namespace: str, number: int) -> str:
    """Why this version must not work in a namespace of this protocol, for people; '' if it may."""
    ours = f"{namespace} is written in protocol {number}, and this version ({package_version()}) reads"
    if number > NEWEST:
        return f"{ours} up to {NEWEST}: upgrade it"
    if 0 < number < OLDEST:
        return f"{ours} {OLDEST} and newer: run a version between the two there first"
    return ""
