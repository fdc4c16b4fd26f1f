"""The programs of a chaos run: workers and producers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

END_S = 20.0


class Program:
    """One program with its own log file, in a session of its own."""

    def __init__(self, log: Path, environment: dict[str, str], *arguments: str) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def children(self) -> list[int]:
        """Pids of its child processes now."""
        pid = self.process.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def vanish(self) -> list[int]:
        """The machine is gone: the program and its children at once. Returns the children's pids."""
        children = self.children()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (self.process.pid, *children):
                send(pid, number)
        self.process.wait(END_S)
        return children

    def terminate(self) -> None:
        """Ask it to shut down cleanly."""
        send(self.process.pid, signal.SIGTERM)

    def wait(self, seconds: float = END_S) -> int:
        """Its exit code; it is killed if it doesn't end in this time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.vanish()
            return -signal.SIGKILL


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False if there is none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def recovered_in(folder: Path) -> Counter[str]:
    """How often the workers' logs say of each job that it was recovered."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("worker-*.log")):
        for line in path.read_bytes().splitlines():
            if b'"job.recovered"' not in line:
                continue
            try:
                event = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue  # cut off by a kill
            found[event["job_id"]] += 1
    return found
