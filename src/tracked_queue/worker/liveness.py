"""
The local sign of life that `health --live` reads: a small file per process, touched by the event loop.

It says that this pod's loop turns, without Redis, so that an outage of Redis doesn't restart a fleet. A file whose
process is gone counts for nothing, so that a killed process leaves no lie behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .. import log

# A touch comes about once a second; a loop that is blocked for longer than this is not live.
STALE_S = 15.0


def default_label() -> str:
    """The label of processes that were given none: the host's name."""
    return socket.gethostname() or "localhost"


def liveness_folder(namespace: str, label: str) -> Path | None:
    """Where the processes of one label on this machine leave their files; None if no folder can be written to."""
    digest = hashlib.sha256(f"{namespace}\0{label}".encode()).hexdigest()[:16]
    try:
        return Path(tempfile.gettempdir()) / f"tracked_queue-{user_id()}" / digest
    except OSError:
        return None


def user_id() -> int:
    """The user's number; 0 on a system that has none."""
    return os.getuid() if hasattr(os, "getuid") else 0


class SignOfLife:
    """This process's file; it holds the leases, one a line, with their shards."""

    def __init__(self, namespace: str, label: str) -> None:
        self._leases: dict[int, str] = {}
        folder = liveness_folder(namespace, label)
        self._path = None if folder is None else folder / f"{os.getpid()}.live"
        if folder is None:
            log.liveness_unknown(problem="no folder for temporary files can be written to")

    def write(self, shard: int, lease: str) -> None:
        """Name the lease that this process has now in a shard."""
        self._leases[shard] = lease
        self._store()

    def _store(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # a read-only container: the probe then says that there is no file
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.write_text("".join(f"{at} {name}\n" for at, name in self._leases.items()), "utf-8")

    def touch(self) -> None:
        """Record that the loop turns."""
        if self._path is not None:
            try:
                os.utime(self._path)
            except FileNotFoundError:  # the folder for temporary files was cleaned
                self._store()
            except OSError:
                pass

    def remove(self) -> None:
        """Remove the file: the process ends."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


@dataclass(frozen=True, slots=True)
class Sign:
    """One living process: its pid, its leases by shard, and for how long its loop has not turned."""

    pid: int
    leases: dict[int, str]
    silent_s: float

    @property
    def live(self) -> bool:
        """Whether its loop turns."""
        return self.silent_s <= STALE_S


def read_signs(namespace: str, label: str) -> list[Sign]:
    """The signs of processes that exist; files of others are removed."""
    signs: list[Sign] = []
    folder = liveness_folder(namespace, label)
    for path in [] if folder is None else sorted(folder.glob("*.live")):
        try:
            pid = int(path.stem)
            if not _exists(pid):
                path.unlink()
                continue
            pairs = (line.split(" ", 1) for line in path.read_text("utf-8").splitlines())
            leases = {int(shard): lease for shard, lease in pairs}
            signs.append(Sign(pid, leases, max(0.0, time.time() - path.stat().st_mtime)))
        except (OSError, ValueError):
            continue
    return signs


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
