"""A primary with its replica, and a Sentinel that watches them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import redis
from tests.harness import wait_for
from tracked_queue.chaos.server import RedisServer, free_port
from tracked_queue.transport.embedded import find_server


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary with an append-only file, and its replica, in step."""
    primary = RedisServer(appendonly=True)
    replica = RedisServer("--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0")
    try:
        with redis.Redis.from_url(replica.url) as client:
            wait_for(lambda: client.info("replication").get("master_link_status") == "up", what="the replica")
        yield primary, replica
    finally:
        replica.close()
        primary.close()


class Sentinel:
    """One Sentinel that watches a primary."""

    def __init__(self, primary: RedisServer) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tq-"))
        self.port = free_port()
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
        )
        self.process = subprocess.Popen(
            [find_server(), str(config), "--sentinel"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def sentinel(pair: tuple[RedisServer, RedisServer]) -> Iterator[Sentinel]:
    made = Sentinel(pair[0])
    try:
        with contextlib.closing(redis.Redis(port=made.port)) as client:

            def knows() -> bool:
                with contextlib.suppress(redis.ConnectionError):
                    return bool(client.execute_command("SENTINEL", "REPLICAS", "main"))
                return False

            wait_for(knows, 20, "the Sentinel to know the replica")
        yield made
    finally:
        made.close()
