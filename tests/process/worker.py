"""Starting real worker programs, reading their logs, signalling their processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import redis
from tests.harness import wait_for
from tests.rights import admin
from tracked_queue.chaos.programs import Program

QUICK = {
    # Short, and long enough for a busy machine to take the core away for a second.
    "HEARTBEAT_INTERVAL": "0.5",
    "HEARTBEAT_TTL": "2.5",
    "TRACKED_QUEUE_RECOVERY_INTERVAL": "0.3",
    "TRACKED_QUEUE_BLOCK": "1",
    "TRACKED_QUEUE_CANCEL_GRACE": "0.5",
}


def environment(url: str, namespace: str, **more: str) -> dict[str, str]:
    return {**os.environ, **QUICK, "REDIS_URL": url, "PROCESSING_NS": namespace, "PYTHONWARNINGS": "default", **more}


class Worker(Program):
    """`python -m tracked_queue worker` in a session of its own."""

    def __init__(
        self, url: str, namespace: str, folder: Path, *options: str, app: str = "tests.process.jobs:app", **env: str
    ) -> None:
        command = ["tracked_queue", "worker", app, "--log-format", "json", *options]
        super().__init__(folder / f"worker-{os.urandom(4).hex()}.log", environment(url, namespace, **env), *command)

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            if line.startswith("{") and f'"{name}"' in line:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the last line is being written
                if event["event"] == name:
                    found.append(event)
        return found

    def wait_event(self, name: str, count: int = 1, timeout: float = 15) -> list[dict[str, Any]]:
        def look() -> list[dict[str, Any]]:
            found = self.events(name)
            return found if len(found) >= count else []

        try:
            return wait_for(look, timeout, name)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-4000:]}") from None

    def ready(self, count: int = 1) -> list[str]:
        """The leases of its instances, once so many are registered."""
        return [event["lease"] for event in self.wait_event("instance.registered", count)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.alive:
            self.vanish()


class Notes:
    """What the jobs noted."""

    def __init__(self, url: str, namespace: str) -> None:
        self._redis = redis.Redis.from_url(admin(url))
        self._key = f"notes:{namespace}"

    def all(self, what: str = "") -> list[list[str]]:
        notes = [note.decode().split() for note in self._redis.lrange(self._key, 0, -1)]
        return [note for note in notes if not what or note[0] == what]

    def wait(self, what: str, count: int, timeout: float = 15) -> list[list[str]]:
        def look() -> list[list[str]]:
            found = self.all(what)
            return found if len(found) >= count else []

        return wait_for(look, timeout, f"{count} x {what}")

    def count(self) -> int:
        return int(self._redis.llen(self._key))

    def starting(self, prefix: str) -> list[list[str]]:
        return [note for note in self.all() if note[0].startswith(prefix)]

    def close(self) -> None:
        self._redis.delete(self._key)
        self._redis.close()
