"""
The ledger of a chaos run: what each process saw, in a file that only it writes, outside Redis.

A line is on the disk before the process goes on, so the ledger holds everything that a killed process did.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

FOLDER_VARIABLE = "CHAOS_LEDGER_FOLDER"
APP_VARIABLE = "CHAOS_TARGET_APP"
VERSION_VARIABLE = "CHAOS_APP_VERSION"
DEFAULT_APP = "tracked_queue.chaos.tasks:app"


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One line. `at` is the machine's monotonic clock in ns, which all processes share.

    Kinds, and what each records:
        asked, stored, refused: an enqueue before it was sent, after it returned (`word`: created, exists, held), or raised
        start, effect, end: of a run (`word` of an end: returned, raised, cancelled)
        answer: of a `result()` (`word`: right, wrong, or the error's class)
        settled: an outcome that the store answered (`word`: the outcome; `verdict`)
        fault: what was done to whom (`word`: the kind; `pid`; `seconds`)
        calm: from here on no fault and no job comes
        stuck: a program that did not end in its time (`word`: which)
    `seconds` of a stored, refused or answer: how long the call took; `limit` how long it may take.
    """

    at: int
    kind: str
    id: str = ""
    task: str = ""
    fence: int = 0
    lease: str = ""
    pid: int = 0
    word: str = ""
    verdict: str = ""
    key: str = ""
    seconds: float = 0.0
    limit: float = 0.0


class Ledger:
    """This process' own file in the run's folder."""

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / f"{name}-{os.getpid()}.ledger"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, kind: str, **facts: Any) -> Event:
        """Add a line, and wait until it is on the disk."""
        (event,) = self.write_all([{"kind": kind, **facts}])
        return event

    def write_all(self, lines: list[dict[str, Any]]) -> list[Event]:
        """Add several lines in one go."""
        now = time.monotonic_ns()
        events = [Event(at=now, **{"pid": os.getpid(), **line}) for line in lines]
        os.write(self._file, b"".join(msgspec.json.encode(event) + b"\n" for event in events))
        os.fdatasync(self._file)
        return events


def read_ledgers(folder: Path) -> list[Event]:
    """All lines of a run in the order of their times; one that was cut off by a kill is left out."""
    return sorted(_events(folder), key=lambda event: event.at)


def _events(folder: Path) -> Iterator[Event]:
    decoder = msgspec.json.Decoder(Event)
    for path in sorted(folder.glob("*.ledger")):
        for line in path.read_bytes().splitlines():
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError:
                continue
