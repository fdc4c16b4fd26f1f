"""The demo's application: one task that hashes a file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import msgspec

from ..app import TrackedQueue

# The demo sets REDIS_URL and this variable, the ledger file's path, for its workers.
LEDGER_VARIABLE = "TRACKED_QUEUE_DEMO_LEDGER"

app = TrackedQueue(namespace="demo")


class Digest(msgspec.Struct):
    """What the demo wants to know of one file."""

    sha256: str
    size: int


def digest_file(path: str) -> Digest:
    """SHA-256 and size of a file, read in pieces."""
    total, size = hashlib.sha256(), 0
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
            size += len(piece)
    return Digest(total.hexdigest(), size)


@app.task(name="demo.digest", queue="files")
async def digest(path: str) -> Digest:
    """Hash one file in a thread, and note in a file outside of Redis that this run began."""
    note_run(path)
    return await asyncio.to_thread(digest_file, path)


def note_run(path: str) -> None:
    """Append one line to the ledger; O_APPEND keeps the lines of several processes whole."""
    ledger = os.environ.get(LEDGER_VARIABLE)
    if ledger:
        line = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(line, os.fsencode(path) + b"\0")
        finally:
            os.close(line)
