"""A private MariaDB of the installed package, on a Unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path


def installed() -> bool:
    return shutil.which("mariadbd") is not None and shutil.which("mariadb-install-db") is not None


class MariaDb:
    """One server with one database, `outbox`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tq-maria-"))
        self.socket = str(self.folder / "s")
        data = self.folder / "data"
        user = ["--user=root"] if os.getuid() == 0 else []
        done = subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self._process = subprocess.Popen(
            ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={self.socket}", "--skip-networking",
             f"--pid-file={self.folder / 'pid'}", "--innodb-flush-log-at-trx-commit=0", *user],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 30
        ask = ["mariadb", "--no-defaults", f"--socket={self.socket}", "-u", "root", "-e", "create database outbox"]
        while subprocess.run(ask, stderr=subprocess.DEVNULL, check=False).returncode:
            assert time.monotonic() < until and self._process.poll() is None, "MariaDB does not start"
            time.sleep(0.1)

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
