"""
Delivering signals to any number of listeners in one process; at the end the program gets back the handlers it had.

A listener is called in the main thread, between two steps of whatever runs there; one that works in an event loop hands over
with `call_soon_threadsafe`. (`loop.add_signal_handler` does none of this: it has one handler a signal, takes the program's own
away for good, and is not there on Windows.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from ..errors import UsageError

Listener = Callable[[str], object]

_listeners: dict[int, list[Listener]] = {}
_before: dict[int, Any] = {}
_pid = 0
_held = threading.local()

# Those of them that exist on this system.
QUIET = getattr(signal, "SIGUSR1", None)
RECORD = getattr(signal, "SIGUSR2", None)
HANG_UP = getattr(signal, "SIGHUP", None)
CHILD_ENDED = getattr(signal, "SIGCHLD", None)


def stopping(listener: Listener) -> dict[int | None, Listener]:
    """The signals that stop a worker; the terminal's hang-up is one, unless it was set to be ignored (nohup)."""
    hang_up = HANG_UP if HANG_UP is None or signal.getsignal(HANG_UP) is not signal.SIG_IGN else None
    return {signal.SIGTERM: listener, signal.SIGINT: listener, hang_up: listener}


@contextlib.contextmanager
def listening(listeners: Mapping[int | None, Listener]) -> Iterator[None]:
    """
    Call these with the signal's name while it is open; a None stands for a signal that this system doesn't have.

    Raises:
        UsageError: This is not the main thread, which alone may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "run_worker: signals are handled in the main thread only; give handle_signals=False, and cancel the call to stop"
        )
    given = [(number, listener) for number, listener in listeners.items() if number is not None]
    global _pid  # noqa: PLW0603  (shows a fork that the listeners are not its own)
    _pid = os.getpid()
    for number, listener in given:
        if number not in _listeners:
            _listeners[number] = []
            _before[number] = signal.signal(number, _dispatch)
        _listeners[number].append(listener)
    try:
        yield
    finally:
        for number, listener in given:
            if number in _listeners:
                _listeners[number].remove(listener)
                if not _listeners[number]:
                    del _listeners[number]
                    _restore(number)


def _dispatch(number: int, _frame: FrameType | None) -> None:
    if os.getpid() != _pid:  # in a fork, before its own first step
        put_back()
        os.kill(os.getpid(), number)
        return
    for listener in list(_listeners.get(number, ())):
        listener(signal.Signals(number).name)


def _restore(number: int) -> None:
    before = _before.pop(number, None)
    # None: a handler that was not made in Python, which can't be set from here.
    signal.signal(number, signal.SIG_DFL if before is None else before)


def put_back() -> None:
    """In a fork: the program's own handlers, and no word to the event loop of the process that it is a copy of."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in list(_listeners):
            _restore(number)
        _listeners.clear()


def hold() -> None:
    """Before a fork: a signal that reaches the child before its first step would be lost, since Python forgets it there."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, list(_listeners))


def let_go() -> None:
    """After the fork, in both processes; in the child after `put_back`."""
    mask = getattr(_held, "mask", None)
    if mask is not None:
        _held.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
