"""
A flight recorder: the last few thousand events of this process, in memory, and written to a file when something has gone wrong.

What it holds is cheap to note and has no arguments: runs that have ended, calls to Redis with how long they took, and every log
line with its facts. A file also has where each thread and each task of the loop stood.

Source: docs/how-to/operate.md; `tracked-queue trace FILE` prints one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from .. import log
from .liveness import user_id

FORMAT = 1
MOST_EVENTS = 4000
# A file for the same reason is written this often at most, and this many files are kept in the folder.
AGAIN_S = 30.0
MOST_FILES = 20
MOST_TASKS, MOST_FRAMES = 500, 30


class Recorder:
    """The events of this process; `events` takes (monotonic time, kind, facts...) and forgets the oldest."""

    def __init__(self) -> None:
        self.events: deque[tuple[Any, ...]] = deque(maxlen=MOST_EVENTS)
        self.about: Callable[[], dict[str, Any]] = dict
        self.folder = ""
        self._written: dict[str, float] = {}  # when, by reason
        self._lock = threading.Lock()

    def use(self, folder: str, about: Callable[[], dict[str, Any]]) -> None:
        """From now on files go to this folder ('': one below that for temporary files), and say what `about` returns."""
        self.folder, self.about = folder, about
        log.log.heard = self._heard

    def _heard(self, event: str, facts: dict[str, Any]) -> None:
        self.events.append((time.monotonic(), event, facts.copy()))

    def write(self, why: str, loop: asyncio.AbstractEventLoop | None = None) -> threading.Thread | None:
        """
        Write a file in a thread of its own, which is returned; None if there was one for this reason a moment ago.

        Never raises. May be called in any thread; `loop` is the one whose tasks are looked at.
        """
        try:
            now = time.monotonic()
            with self._lock:
                if now - self._written.get(why, -AGAIN_S) < AGAIN_S:
                    return None
                self._written[why] = now
            lines = [self._head(why, now), *_threads(), *_tasks(loop), *self._told(now)]
            thread = threading.Thread(target=self._save, args=(why, lines), name="tracked_queue-recorder", daemon=True)
            thread.start()
        except Exception as error:  # whatever it is (no further thread to be had, say), it must not make things worse
            log.flight_unwritten(why=why, problem=f"{type(error).__qualname__}: {error}")
            return None
        return thread

    def _head(self, why: str, now: float) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"pid": os.getpid(), "python": sys.version.split()[0], **self.about()}
        return {"format": FORMAT, "why": why, "at": at, **facts, "counts": dict(log.log.counts)}

    def _told(self, now: float) -> list[dict[str, Any]]:
        events: list[tuple[Any, ...]] = []
        for _ in range(5):
            with contextlib.suppress(RuntimeError):  # it grew meanwhile
                events = list(self.events)
                break
        return [
            {"ago": round(now - at, 6), "kind": str(kind), "facts": [_plain(fact) for fact in facts]}
            for at, kind, *facts in events
        ]

    def _save(self, why: str, lines: list[dict[str, Any]]) -> None:
        try:
            folder = Path(self.folder) if self.folder else default_folder()
            _make_room(folder, own=not self.folder)
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(3)}-{why}.flight"
            path = folder / name
            # Not one that is there, nor a link to somewhere else: the folder may be one that others can write to.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(handle, "w", encoding="utf-8", errors="replace") as file:
                file.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        except Exception as error:
            log.flight_unwritten(why=why, problem=f"{type(error).__qualname__}: {error}")
        else:
            log.flight_written(why=why, path=str(path))


def default_folder() -> Path:
    """Where files go without a setting."""
    return Path(tempfile.gettempdir()) / f"tracked_queue-{user_id()}" / "flights"


def _make_room(folder: Path, *, own: bool) -> None:
    """
    Make the folder, and remove its oldest files. Raises OSError.

    Args:
        own: It is the default one, below a folder that all users can write to: it must be ours, and closed to others.
    """
    if own:
        for level in (folder.parent, folder):
            level.mkdir(exist_ok=True, mode=0o700)
            about = level.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != user_id() or about.st_mode & 0o022:
                raise PermissionError(f"{level} is somebody else's, or open to others; set flight_folder")
    else:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ages: list[tuple[float, Path]] = []
    for path in folder.glob("*.flight"):
        with contextlib.suppress(OSError):  # another process has removed it
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages)[: -MOST_FILES + 1]:
        with contextlib.suppress(OSError):
            path.unlink()


def _plain(fact: Any) -> Any:
    if isinstance(fact, float):
        return round(fact, 6)
    return fact.decode("utf-8", "replace") if isinstance(fact, bytes) else fact


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}"


def _threads() -> Iterable[dict[str, Any]]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = [_place(one, line) for one, line in traceback.walk_stack(frame)][:MOST_FRAMES]
        yield {"thread": names.get(ident, str(ident)), "stack": stack}


def _tasks(loop: asyncio.AbstractEventLoop | None) -> Iterable[dict[str, Any]]:
    if loop is None:
        return
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in tasks[:MOST_TASKS]:
        yield {"task": task.get_name(), "stack": _awaited(task.get_coro())}
    if len(tasks) > MOST_TASKS:
        yield {"task": f"{len(tasks) - MOST_TASKS} more", "stack": []}


def _awaited(coroutine: Any) -> list[str]:
    """Where a suspended coroutine stands, and what it waits for, the innermost first."""
    places: list[str] = []
    while coroutine is not None and len(places) < MOST_FRAMES:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        places.append(_place(frame, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return places[::-1]


# The process's own.
RECORDER = Recorder()
