"""The world of a chaos run: servers, a proxy before them, workers and producers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio as redis_client

from ..sharding.shards import Shards
from .ledger import APP_VARIABLE, FOLDER_VARIABLE, VERSION_VARIABLE, Ledger
from .programs import Program
from .proxy import Proxy
from .server import RedisServer

# Of a lease; the longer one is for hundreds of instances, whose more frequent beats two cores could not carry.
TTL_S, CROWDED_TTL_S = 2.0, 10.0
NAMESPACE = "chaos"
WORKERS, PRODUCERS, PROCESSES, CROWD = 3, 2, 2, 50
# With a lease's time added: how long nothing may move before the run gives up. Every fault ends within it.
PATIENCE_S = 20.0
SLOW_US = 5_000


class World:
    """
    Everything of one run.

    Args:
        folder: Where ledgers and logs go.
        target: module:app.
        chance: Of every choice.
        shards: Of the namespace.
        instances: Further ones, small and many in a process.
    """

    def __init__(self, folder: Path, target: str, chance: random.Random, shards: int = 1, instances: int = 0) -> None:
        self.folder, self.target, self.chance, self.shards = folder, target, chance, shards
        self._instances = instances
        self.ttl_s = TTL_S if instances <= CROWD else CROWDED_TTL_S
        self.ledger = Ledger(folder, "harness")
        self.primary = RedisServer(appendonly=True)
        self.replica = self._server_after(self.primary)
        self.proxy = Proxy(self.primary.port)
        self.workers: list[Program] = []
        self.producers: list[Program] = []
        self.crowds: list[Program] = []
        self._programs: list[Program] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it is open, all of it runs; at its end nothing is left."""
        try:
            async with self.proxy:
                self.workers = [self.worker() for _ in range(WORKERS)]
                self.crowds = [self.crowd() for _ in range(math.ceil(self._instances / CROWD))]
                self.producers = [self._producer() for _ in range(PRODUCERS)]
                yield
        finally:
            for program in self._programs:
                if program.alive:
                    program.vanish()
            for server in (self.primary, self.replica):
                server.close()

    def environment(self) -> dict[str, str]:
        """The environment variables of its programs."""
        return {
            "REDIS_URL": self.proxy.url,
            "PROCESSING_NS": NAMESPACE,
            "TRACKED_QUEUE_SHARDS": str(self.shards),
            "HEARTBEAT_INTERVAL": str(self.ttl_s / 5),
            "HEARTBEAT_TTL": str(self.ttl_s),
            "TRACKED_QUEUE_RECOVERY_INTERVAL": "0.5",
            "TRACKED_QUEUE_BLOCK": "1",
            "TRACKED_QUEUE_REPLY_TIMEOUT": str(self.ttl_s * 0.75),
            "TRACKED_QUEUE_CANCEL_GRACE": "0.5",
            "TRACKED_QUEUE_RESULT_TTL": str(30 * 86_400),  # longer than any jump of the clock
            FOLDER_VARIABLE: str(self.folder),
            APP_VARIABLE: self.target,
        }

    def _started(self, program: Program) -> Program:
        self._programs.append(program)
        return program

    @property
    def tags(self) -> list[str]:
        """What the names of its keys begin with."""
        parts = Shards(NAMESPACE, self.shards)
        return [parts.keys(shard).tag for shard in range(self.shards)]

    def worker(self, log: Path | None = None, version: int = 0) -> Program:
        """Start a worker of PROCESSES instances, with either version of the app; it may not be ready yet."""
        which = {VERSION_VARIABLE: str(version or self.chance.randint(1, 2))}
        return self._started(Program(
            log or self.folder / f"worker-{len(self._programs)}.log", self.environment() | which,
            "tracked_queue", "worker", "tracked_queue.chaos.recorded:app", "--log-format", "json",
            "--processes", str(PROCESSES), "--concurrency", "10", "--grace", "1",
        ))  # fmt: skip

    def crowd(self) -> Program:
        """CROWD instances in one process."""
        return self._started(Program(
            self.folder / f"worker-{len(self._programs)}.log", self.environment(), "tracked_queue.chaos.crowd", str(CROWD)
        ))  # fmt: skip

    def _producer(self) -> Program:
        return self._started(Program(
            self.folder / f"producer-{len(self._programs)}.log", self.environment(),
            "tracked_queue.chaos.produce", str(self.chance.random()),
        ))  # fmt: skip

    def _server_after(self, primary: RedisServer) -> RedisServer:
        return RedisServer(
            "--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0", appendonly=True
        )

    @contextlib.asynccontextmanager
    async def direct(self, server: RedisServer | None = None) -> AsyncIterator[Any]:
        """A connection to the primary that no fault of the proxy touches."""
        client = redis_client.Redis.from_url((server or self.primary).url, socket_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    async def calm(self) -> None:
        """Note in the ledger that no more faults or jobs come; from here on slow scripts are counted."""
        self.ledger.write("calm")
        async with self.direct() as client:
            await client.config_set("slowlog-log-slower-than", SLOW_US)
            await client.slowlog_reset()

    async def slow_calls(self) -> int:
        """How many calls of scripts took more than SLOW_US since the run is calm; 128 at most."""
        async with self.direct() as client:
            calls = await client.slowlog_get(128)
        return sum(call["command"].startswith(b"EVALSHA") for call in calls)

    def note(self, kind: str, pid: int = 0, seconds: float = 0.0) -> None:
        """A fault, in the ledger."""
        self.ledger.write("fault", word=kind, pid=pid, seconds=seconds)

    async def promote(self) -> None:
        """Make the replica the primary, with a replica of its own."""
        old, new = self.primary, self.replica
        new.forget_primary()
        self.primary, self.proxy.target = new, new.port
        self.proxy.cut()
        await asyncio.to_thread(old.close)
        self.replica = await asyncio.to_thread(self._server_after, new)

    # The end of a run

    async def ended(self, worker: Program) -> None:
        """Wait for the end of a worker that was asked to stop; one that has to be killed is a problem."""
        if await asyncio.to_thread(worker.wait) == -signal.SIGKILL:
            self.ledger.write("stuck", word=worker.log.name)

    async def end_producers(self) -> None:
        """End the producers, so that no more jobs come."""
        for producer in self.producers:
            producer.terminate()
        for producer in self.producers:
            await asyncio.to_thread(producer.wait)

    async def settle_down(self, look: Callable[[Any], Awaitable[tuple[int, int]]]) -> None:
        """
        The deploy is done, and without further faults workers finish, and end; gives up when nothing moves for a while.

        Args:
            look: Returns how many jobs have not ended, and how many deaths they were in: poison has to be confirmed.
        """
        self.workers.append(self.worker(version=2))
        last, moved = (-1, -1), time.monotonic()
        while time.monotonic() - moved < PATIENCE_S + self.ttl_s:
            async with self.direct() as client:
                seen = await look(client)
            if seen[0] == 0:
                break
            if seen != last:
                last, moved = seen, time.monotonic()
            await asyncio.sleep(0.2)
        for program in (*self.workers, *self.crowds):
            program.terminate()
        for program in (*self.workers, *self.crowds):
            await self.ended(program)
