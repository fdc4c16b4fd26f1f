"""The child's side of `isolate="process"`: runs one function by its module and name, and gives back bytes."""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import signal
import socket
import sys
import threading
import time
from typing import Any

import msgspec

from ..codec import encode_exception
from ..retry import Retry, Signal, Snooze
from ..task import Task

PARENT_LOOK_S = 0.5


def main() -> None:
    """Answer calls from the socket whose number is the last argument, until it is closed. See processes.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to handle
    _end_with_parent()
    with socket.socket(fileno=int(sys.argv[-1])) as link, link.makefile("rb") as calls:
        while size := calls.read(8):
            call = msgspec.msgpack.decode(calls.read(int.from_bytes(size, "big")))
            reply = msgspec.msgpack.encode(run_isolated(*call))
            link.sendall(len(reply).to_bytes(8, "big") + reply)


def run_isolated(
    module: str, script: str, name: str, args: bytes, kwargs: bytes
) -> tuple[str, bytes, list[str], float | None]:
    """
    Run a registered function in this process.

    Args:
        module: Where it is; `__main__` is loaded from the file `script`.
        name: The function's qualified name.
        args, kwargs: The encoded arguments.

    Returns:
        ("", the encoded result, [], None); or (the error's class, the encoded error, the names of its classes, None); or
        (Retry, Snooze, Discard or Dead, the reason, [], its seconds).
    """
    try:
        task = _find(module, script, name)
        values, named = task.signature.decode(args, kwargs)
        return "", task.signature.result.encode(task.function(*values, **named)), [], None
    except Signal as wish:
        seconds = wish.after if isinstance(wish, Retry) else wish.for_ if isinstance(wish, Snooze) else None
        return type(wish).__name__, wish.reason.encode("utf-8", "replace"), [], seconds
    except BaseException as error:
        kinds = [class_name(kind) for kind in type(error).__mro__]
        return type(error).__qualname__, encode_exception(error, (run_isolated.__code__,)), kinds, None


@functools.cache
def _find(module: str, script: str, name: str) -> Task[..., Any]:
    if module == "__main__":
        # Not under that name: what it does when it is run as a script must not be done again here.
        space: dict[str, Any] = runpy.run_path(script, run_name="__isolated__")
    else:
        space = vars(importlib.import_module(module))
    first, *rest = name.split(".")
    found = space[first]
    for part in rest:
        found = getattr(found, part)
    if isinstance(found, Task):
        return found
    # `send = app.task(...)(_send)`: the task has another name than its function.
    for value in space.values():
        if isinstance(value, Task) and value.function is found:
            return value
    raise TypeError(f"{module}.{name} is no task in the child process")


def class_name(kind: type) -> str:
    """How an exception's class is told over the socket: no object of the user's travels there."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _end_with_parent() -> None:
    """A worker that was killed leaves no child at work: it is noticed here, in the middle of a job too."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="tracked_queue-parent", daemon=True).start()
