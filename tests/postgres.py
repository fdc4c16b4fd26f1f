"""A private PostgreSQL of the installed package, on a Unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

# Debian keeps the server's programs out of PATH.
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USER = "postgres"


def program(name: str) -> str | None:
    found = [str(folder / name) for folder in BINARIES if (folder / name).exists()]
    return found[0] if found else shutil.which(name)


class Postgres:
    """One server with one database, `postgres`. PostgreSQL refuses to run as root, so it has a user of its own then."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tq-pg-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            shutil.chown(self.folder, USER, USER)
            self._as = {"user": USER, "group": USER, "extra_groups": []}
        initdb = program("initdb")
        assert initdb, "PostgreSQL is not installed"
        command = [initdb, "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "-N"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self._as)
        self.start()

    def start(self) -> None:
        ctl = program("pg_ctl")
        assert ctl
        options = (
            f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off -c max_connections=60"
        )
        subprocess.run(
            [ctl, "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"],
            check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self._as,
        )  # fmt: skip

    def stop(self, how: str = "immediate") -> None:
        ctl = program("pg_ctl")
        assert ctl
        subprocess.run(
            [ctl, "-D", str(self.folder / "data"), "-m", how, "-w", "stop"],
            check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self._as,
        )  # fmt: skip

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def dsn(self) -> str:
        return f"host={self.folder} user={USER} dbname=postgres"

    @property
    def django(self) -> dict[str, Any]:
        return {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": USER, "HOST": str(self.folder)}
