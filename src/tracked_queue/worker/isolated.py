"""The child's side of `isolate="process"`: runs one function by its module and name, and gives back bytes."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
import time
from typing import Any

from ..codec import encode_exception
from ..retry import Retry, Signal, Snooze
from ..task import Task

PARENT_LOOK_S = 0.5


def run_isolated(module: str, name: str, args: bytes, kwargs: bytes) -> tuple[str, bytes, list[str], float | None]:
    """
    Run a registered function in this process.

    Returns:
        ("", the encoded result, [], None); or (the error's class, the encoded error, the names of its classes, None); or
        (Retry, Snooze, Discard or Dead, the reason, [], its seconds).
    """
    _end_with_parent()
    try:
        task: Any = importlib.import_module(module)
        for part in name.split("."):
            task = getattr(task, part)
        if not isinstance(task, Task):
            raise TypeError(f"{module}.{name} is no task in the child process")
        values, named = task.signature.decode(args, kwargs)
        return "", task.signature.result.encode(task.function(*values, **named)), [], None
    except Signal as wish:
        seconds = wish.after if isinstance(wish, Retry) else wish.for_ if isinstance(wish, Snooze) else None
        return type(wish).__name__, wish.reason.encode("utf-8", "replace"), [], seconds
    except BaseException as error:
        kinds = [class_name(kind) for kind in type(error).__mro__]
        return type(error).__qualname__, encode_exception(error, (run_isolated.__code__,)), kinds, None


def class_name(kind: type) -> str:
    """How an exception's class is told over the pipe: no object of the user's travels there."""
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _end_with_parent() -> None:
    """A worker that was killed leaves no child at work: it is noticed here, in the middle of a job too."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="tracked_queue-parent", daemon=True).start()
