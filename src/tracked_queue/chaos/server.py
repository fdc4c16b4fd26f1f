"""Private Redis servers: on a Unix socket and a free loopback port, ended by their pid."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ..transport.embedded import answers, find_server

START_S = 20.0


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """
    One server process; `url` is TCP on loopback, so that a proxy can stand before it.

    Args:
        options: Further options of the server; TEST_REDIS_OPTIONS comes before them.
        appendonly: Whether it keeps an append-only file, synced after every command.
        program: Default: TEST_REDIS_SERVER, else the one that `embedded://` takes.
        port: Default: any that is free.
    """

    def __init__(
        self, *options: str, appendonly: bool = False, program: str | None = None, port: int | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tq-"))
        self.port = port or free_port()
        self._program = program or os.environ.get("TEST_REDIS_SERVER") or find_server()
        self._options = [
            "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.folder / "s"),
            "--dir", str(self.folder), "--save", "", "--appendonly", "yes" if appendonly else "no",
            "--appendfsync", "always", "--logfile", str(self.folder / "log"),
            *shlex.split(os.environ.get("TEST_REDIS_OPTIONS", "")), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        """Start it, or restart it on the files that it left; unless `wait` is False, it answers when this returns."""
        self.process = subprocess.Popen(
            [self._program, *self._options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while wait and not answers(self.folder / "s").startswith(("+PONG", "-NOAUTH", "-DENIED")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process."""
        if self.process is not None:
            self.process.send_signal(number)

    def forget_primary(self) -> None:
        """Note that it was promoted, so that it restarts as a primary."""
        if "--replicaof" in self._options:
            at = self._options.index("--replicaof")
            del self._options[at : at + 3]

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Stop its process: it accepts connections, but answers nothing."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove its files."""
        self.thaw()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
