"""Private Redis servers for tests: on a Unix socket and a free loopback port, ended by their pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tracked_queue.embedded import answers, find_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server process; `url` is TCP on loopback, so that a proxy can stand before it."""

    def __init__(self, *options: str, appendonly: bool = False, program: str | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tq-"))
        self.port = free_port()
        self._program = program or os.environ.get("TEST_REDIS_SERVER") or find_server()
        self._options = [
            "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.folder / "s"),
            "--dir", str(self.folder), "--save", "", "--appendonly", "yes" if appendonly else "no",
            "--appendfsync", "always", "--logfile", str(self.folder / "log"), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        self.process = subprocess.Popen([self._program, *self._options], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while wait and not answers(self.folder / "s").startswith(("+PONG", "-NOAUTH", "-DENIED")):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the test server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        assert self.process is not None
        self.thaw()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
