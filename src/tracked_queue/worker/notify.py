"""What a supervisor tells systemd (`Type=notify`): that it has started, how it stands, that it lives, and that it stops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

# How often the state is looked at; a watchdog that wants it more often gets it.
LOOK_S = 1.0


class Notifier:
    """
    Speaks to the socket that systemd names in NOTIFY_SOCKET; does nothing without one.

    Args:
        started, ready, live: What keeps the worker from it; '' if nothing does.
    """

    def __init__(self, started: Callable[[], str], ready: Callable[[], str], live: Callable[[], str]) -> None:
        self._started, self._ready, self._live = started, ready, live
        # Not for children: they are not the unit's main process.
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = _watchdog_s()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    async def run(self) -> None:
        """Tell until cancelled. The watchdog is fed while the loops of all processes turn."""
        pause_s = LOOK_S if self._watchdog_s is None else min(LOOK_S, self._watchdog_s / 3)
        has_started, said = False, ""
        while True:
            # Each by itself, and again until it has arrived: systemd's queue is short.
            has_started = has_started or (not self._started() and self.tell("READY=1"))
            status = self._ready() or "works"
            if status != said and self.tell(f"STATUS={status}"):
                said = status
            if self._watchdog_s is not None and not self._live():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(pause_s)

    def tell(self, *words: str) -> bool:
        """Send one message; whether it was taken."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.setblocking(False)
                to.sendto("\n".join(words).encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True


def _watchdog_s() -> float | None:
    """How often systemd wants to hear of us; None if it does not."""
    given, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not given.isdecimal() or int(given) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(given) / 1e6
