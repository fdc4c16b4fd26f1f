"""Workers as if each were on a machine of its own, for the demos: started, killed as a whole, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from ..worker import log_setup
from .demo import Interrupts, embedded_stage

# Short leases, so that nobody has to wait for half a minute to see one run out.
LEASES = {
    "HEARTBEAT_INTERVAL": "0.5", "HEARTBEAT_TTL": "3", "TRACKED_QUEUE_RECOVERY_INTERVAL": "0.5",
    "TRACKED_QUEUE_CANCEL_GRACE": "1",
}  # fmt: skip


_machines: list[Machine] = []  # all that were started, so that none outlives this program


class Machine:
    """A worker with its processes, as if on a machine of its own."""

    def __init__(self, folder: Path, url: str, label: str, *options: str, app: str, **environment: str) -> None:
        self.label, self.port = label, _free_port()
        self._log = folder / f"{label}.log"
        command = [
            sys.executable, "-m", "tracked_queue", "worker", app, "--instance-id", label,
            "--http-port", str(self.port), "--log-format", "json", "--grace", "1", *options,
        ]  # fmt: skip
        variables = {
            **os.environ,
            **LEASES,
            "REDIS_URL": url,
            "TRACKED_QUEUE_FLIGHT_FOLDER": str(folder),
            "TRACKED_QUEUE_HTTP_HOST": "127.0.0.1",
            **environment,
        }
        variables.pop("TRACKED_QUEUE_REDIS_URL", None)
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        _machines.append(self)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log."""
        lines = (line for line in self._log.read_bytes().splitlines() if line.startswith(b"{") and line.endswith(b"}"))
        return [event for event in map(msgspec.json.decode, lines) if event.get("event") == name]

    def pids(self) -> list[int]:
        """Its worker processes."""
        return [event["pid"] for event in self.events("process.started")]

    def vanish(self) -> None:
        """The power is off: nothing of it says goodbye."""
        if self.process.poll() is not None:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (self.process.pid, *self.pids()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """To its worker processes, not to their supervisor."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def metrics(self, *names: str) -> list[str]:
        """Lines of its /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return chosen(answer.read().decode(), names)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.vanish()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def chosen(text: str, names: tuple[str, ...]) -> list[str]:
    """Lines that begin with one of these."""
    return [line for line in text.splitlines() if line.startswith(names)]


def staged(name: str, play: Callable[[Path, str], Coroutine[Any, Any, None]]) -> bool:
    """
    Play something with an embedded Redis in a temporary folder; whatever ends it, machines, server and folder are gone then.

    Args:
        play: Gets the folder and the server's URL.

    Returns:
        Whether it came to its end, and was not interrupted.
    """
    # Once one has come, others must not keep the machines from being ended.
    interrupts = Interrupts()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupts.on_signal)
    try:
        with embedded_stage(name) as (folder, url):
            try:
                log_setup.set_up(level="error")  # what this program does itself is not the story
                interrupts.run(play(folder, url))
            finally:
                interrupts.hold()
                for machine in _machines:
                    machine.vanish()
    except KeyboardInterrupt:
        return False
    return True
