"""
The three pipes between a supervisor and a child: what the supervisor says, the child's news, and its numbers.

The first and the second close when the other side has died, which both notice. The third is not blocking: see meter.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable

from ..protocol.transitions import Mode
from .lineage import keep_from_forks, watch_forks
from .meter import METER, Teller

# How often suspects are told of at most.
AGAIN_S = 1.0

READY, ENDING, BEGAN, SUSPECTS, SIGN = b"ready", b"ending", b"began", b"suspects", b"."
# What the supervisor says to a child besides the signal: the child hears it even if its code has installed another handler.
STOP, AT_ONCE = b".", b"!"


def hear(end: int, take: Callable[[list[bytes]], None], closed: Callable[[], None]) -> Callable[[], None]:
    """In the running loop: take what comes through a pipe, line by line, until its other end or this result closes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(end, False)
    rest, is_open = b"", True

    def close() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            loop.remove_reader(end)
            os.close(end)
            closed()

    def read() -> None:
        nonlocal rest
        try:
            data = os.read(end, 65536)
        except BlockingIOError:
            return
        if not data:
            close()
            return
        *lines, rest = (rest + data).split(b"\n")
        take(lines)

    loop.add_reader(end, read)
    return close


class SupervisorPipe:
    """The child's ends of the three pipes: what the supervisor says, and its own news and numbers."""

    def __init__(self, ends: str) -> None:
        life, news, numbers, mode = ends.split(":")
        self._life, self._news, self.mode = int(life), int(news), Mode(mode)
        self._teller = Teller(int(numbers))
        watch_forks()  # a fork that the application makes while it is imported must not keep these ends open
        self._suspects_told = -math.inf
        # Jobs' own child processes must not keep the pipes open.
        for end in (self._life, self._news, int(numbers)):
            keep_from_forks(end)

    def announce(self, shard: int, lease: str) -> None:
        """Tell the supervisor of a lease that is about to be registered in a shard."""
        self._tell(f"{shard} {lease}".encode())

    def ready(self) -> None:
        """Tell the supervisor that signals are handled."""
        self._tell(READY)

    def began(self) -> None:
        """Tell the supervisor that this process has been given jobs."""
        self._tell(BEGAN)

    def suspects(self) -> None:
        """Tell the supervisor that suspects wait; once a second at most."""
        now = time.monotonic()
        if now - self._suspects_told >= AGAIN_S:
            self._suspects_told = now
            self._tell(SUSPECTS)

    def sign(self) -> None:
        """Tell the supervisor that threads run here."""
        self._tell(SIGN)

    def ending(self) -> None:
        """Tell the supervisor that the end of this process has begun, for whatever reason."""
        self._tell(ENDING)

    def numbers(self) -> None:
        """Tell the supervisor what this process has counted since the last time."""
        self._teller.tell(METER)

    def _tell(self, news: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._news, news + b"\n")

    def watch(self, gone: Callable[[], None], stop: Callable[[], None], at_once: Callable[[], None]) -> None:
        """In the running loop: call `gone` when the supervisor has died, and the others when it says so."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(OSError):
                word = os.read(self._life, 1)
                if word:
                    (at_once if word == AT_ONCE else stop)()
                    return
            loop.remove_reader(self._life)
            gone()

        loop.add_reader(self._life, read)
