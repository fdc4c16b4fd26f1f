"""Child processes for `isolate="process"`: started when needed, kept for the next job, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from ..errors import ProcessLostError
from .lineage import end_group, forget, interpreter_options, keep_from_forks

# A child that has had no job for this long is ended when the next job comes.
IDLE_S = 300.0
# How long a child whose socket has closed may take to end by itself before it is killed.
END_S = 2.0
# How long the end waits for killed children.
CLOSE_S = 2.0
# The import path is the parent's, so that whatever the parent could import the child can.
_START = (
    "import json, os, sys; os.setpgid(0, 0); sys.path[:] = json.loads(sys.argv[1]); "
    "from tracked_queue.worker.isolated import main; main()"
)


class ProcessPool:
    """
    At most `size` children at a time. Each speaks with its parent over a socket of their own: standard input is empty,
    standard output and error are the worker's. A child whose socket closes ends, so none is left behind by a cancellation
    at any moment, nor by the parent's death; and what a child has started ends with it (see lineage.py).

    Args:
        setup: What each child is told first, encoded: see `isolated.Setup`.
    """

    def __init__(self, size: int, setup: bytes = b"") -> None:
        self._limiter = anyio.CapacityLimiter(size)
        self._setup = setup
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    @property
    def busy(self) -> int:
        """How many children run a job."""
        return len(self._busy)

    async def run(self, task: str, call: Sequence[Any]) -> Any:
        """
        Have a child carry out a call of `isolated.run_isolated`; a cancellation ends the child.

        Raises:
            ProcessLostError: The child died.
        """
        async with self._limiter:
            while True:
                idle = self._take_idle()
                child = idle or await _Child.start(self._setup)
                self._busy.add(child)
                try:
                    reply = await child.ask(call)
                except (EOFError, OSError):
                    if idle is not None and not child.began:
                        continue  # it died while it had no job, a moment before it was asked
                    raise ProcessLostError(task, await child.how_it_ended()) from None
                finally:
                    self._busy.discard(child)
                    if not child.usable:
                        child.kill()
                child.idle_at = time.monotonic()
                self._idle.append(child)
                return reply

    def _take_idle(self) -> _Child | None:
        too_old = time.monotonic() - IDLE_S
        while self._idle and self._idle[0].idle_at < too_old:
            self._idle.pop(0).kill()
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            child.kill()  # it died while it had no job, which is no job's fault
        return None

    async def close(self) -> None:
        """End all children."""
        children = [*self._idle, *self._busy]
        self._idle.clear()
        for child in children:
            child.kill()
        with anyio.move_on_after(CLOSE_S, shield=True):
            for child in children:
                await child.ended()


class _Child:
    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        descriptor: int,
    ) -> None:
        self._process, self._reader, self._writer, self._descriptor = process, reader, writer, descriptor
        self._numbers = itertools.count(1)
        self.usable = True
        self.began = False
        self.idle_at = 0.0

    @classmethod
    async def start(cls, setup: bytes) -> _Child:
        ours, theirs = socket.socketpair()
        descriptor = ours.fileno()
        keep_from_forks(descriptor)
        try:
            with theirs:
                # Cancelled in here, the process may have been started; it finds its socket closed and ends.
                process = await asyncio.create_subprocess_exec(
                    sys.executable, *interpreter_options(), "-c", _START, json.dumps(sys.path), str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                )  # fmt: skip
            try:
                reader, writer = await asyncio.open_connection(sock=ours)
            except BaseException:
                process.kill()
                raise
        except BaseException:
            forget(descriptor)
            ours.close()
            raise
        child = cls(process, reader, writer, descriptor)
        child._send(setup)
        return child

    def _send(self, data: bytes) -> None:
        self._writer.write(len(data).to_bytes(8, "big") + data)

    @property
    def alive(self) -> bool:
        if self._process.returncode is not None or self._reader.at_eof():
            return False
        if hasattr(os, "waitid"):  # it may have died a moment ago, and the loop not know yet
            try:
                return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            except ChildProcessError:
                return False
        return True

    async def ask(self, call: Sequence[Any]) -> Any:
        self.usable = False  # until its answer is here
        self.began = False  # until it says that it has read the call
        number = next(self._numbers)
        self._send(msgspec.msgpack.encode([number, *call]))
        while True:
            size = int.from_bytes(await self._reader.readexactly(8), "big")
            answered, reply = msgspec.msgpack.decode(await self._reader.readexactly(size))
            if answered != number:  # what answers another call is not this job's
                continue
            if reply is not None:
                self.usable = True
                return reply
            self.began = True

    async def how_it_ended(self) -> str:
        # The socket closes a moment before the process is gone. Waiting comes first: asyncio's kill() reaps one that has ended,
        # and then its exit code is lost (CPython's Popen.send_signal polls).
        with anyio.move_on_after(END_S):
            await self._process.wait()
        self.kill()  # it may have closed its socket and kept running
        code = await self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def ended(self) -> None:
        await self._process.wait()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def kill(self) -> None:
        forget(self._descriptor)
        self._writer.close()
        end_group(self._process.pid)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
