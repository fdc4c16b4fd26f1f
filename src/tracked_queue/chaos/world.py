"""The world of a chaos run: servers, a proxy before them, workers and producers; and what can be done to them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import redis.asyncio as redis_client
import redis.exceptions

from ..handle import Job
from .ledger import APP_VARIABLE, DEFAULT_APP, FOLDER_VARIABLE, Ledger
from .programs import Program, send
from .proxy import Proxy
from .server import RedisServer

TTL_S = 2.0
NAMESPACE = "chaos"
WORKERS, PRODUCERS, PROCESSES = 3, 2, 2
# No longer than this, so that every fault of a run ends in it.
PATIENCE_S = 20.0

Fault = Callable[[], Coroutine[Any, Any, None]]


class World:
    """Everything of one run; `faults` are its weights and what to call."""

    def __init__(self, folder: Path, target: str, chance: random.Random, shards: int = 1) -> None:
        self.folder, self.target, self.chance, self._shards = folder, target, chance, shards
        self.ledger = Ledger(folder, "harness")
        self.primary = RedisServer(appendonly=True)
        self.replica = self._server_after(self.primary)
        self.proxy = Proxy(self.primary.port)
        self.workers: list[Program] = []
        self.producers: list[Program] = []
        self._programs: list[Program] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it is open, all of it runs; at its end nothing is left."""
        try:
            async with self.proxy:
                self.workers = [self._worker() for _ in range(WORKERS)]
                self.producers = [self._producer() for _ in range(PRODUCERS)]
                yield
        finally:
            for program in self._programs:
                if program.alive:
                    program.vanish()
            for server in (self.primary, self.replica):
                server.close()

    def environment(self) -> dict[str, str]:
        """What its programs are told."""
        return {
            "REDIS_URL": self.proxy.url,
            "PROCESSING_NS": NAMESPACE,
            "TRACKED_QUEUE_SHARDS": str(self._shards),
            "HEARTBEAT_INTERVAL": str(TTL_S / 5),
            "HEARTBEAT_TTL": str(TTL_S),
            "TRACKED_QUEUE_RECOVERY_INTERVAL": "0.5",
            "TRACKED_QUEUE_BLOCK": "1",
            "TRACKED_QUEUE_REPLY_TIMEOUT": "1.5",
            "TRACKED_QUEUE_CANCEL_GRACE": "0.5",
            "TRACKED_QUEUE_RESULT_TTL": "86400",
            FOLDER_VARIABLE: str(self.folder),
            APP_VARIABLE: self.target,
        }

    def _started(self, program: Program) -> Program:
        self._programs.append(program)
        return program

    def _worker(self, log: Path | None = None) -> Program:
        return self._started(Program(
            log or self.folder / f"worker-{len(self._programs)}.log", self.environment(),
            "tracked_queue", "worker", "tracked_queue.chaos.served:app", "--log-format", "json",
            "--processes", str(PROCESSES), "--concurrency", "10", "--grace", "1",
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

    def calm(self) -> None:
        """No more faults and no more jobs come, in the ledger."""
        self.ledger.write("calm")

    def note(self, kind: str, pid: int = 0, seconds: float = 0.0) -> None:
        """A fault, in the ledger."""
        self.ledger.write("fault", word=kind, pid=pid, seconds=seconds)

    def _take_worker(self) -> Program | None:
        """A worker that another comes in place of; the fault that has it is alone with it."""
        return self.workers.pop(self.chance.randrange(len(self.workers))) if self.workers else None

    def _a_child(self) -> int:
        children = self.chance.choice(self.workers).children() if self.workers else []
        return self.chance.choice(children) if children else 0

    # Faults. Each ends by itself, and puts right what it has changed.

    @property
    def faults(self) -> dict[str, tuple[int, Fault]]:
        """By kind: how often in comparison, and what does it."""
        kinds: dict[str, tuple[int, Fault]] = {
            "kill": (4, self.kill),
            "vanish": (2, self.vanish),
            "freeze": (3, self.freeze),
            "redeploy": (2, self.redeploy),
            "cut": (2, self.cut),
            "half_open": (1, self.half_open),
            "delay": (1, self.delay),
            "lost_replies": (3, self.lost_replies),
            "client_kill": (1, self.client_kill),
            "client_pause": (1, self.client_pause),
            "script_flush": (1, self.script_flush),
            "redis_restart": (2, self.redis_restart),
            "redis_restart_everysec": (1, self.redis_restart_everysec),
            "failover": (1, self.failover),
            "idle_drop": (1, self.idle_drop),
            "terminate_all": (1, self.terminate_all),
            "full_log": (1, self.full_log),
            "redis_stands_still": (1, self.redis_stands_still),
            "redis_full": (1, self.redis_full),
        }
        if self.target == DEFAULT_APP:
            kinds["block"] = (1, self.block)
            kinds["fork"] = (2, self.fork)
            kinds["stuck_exit"] = (1, self.stuck_exit)
            kinds["poison"] = (2, self.poison)
        return kinds

    async def kill(self) -> None:
        """SIGKILL of one worker process; its supervisor starts another."""
        if pid := self._a_child():
            self.note("kill", pid)
            send(pid, signal.SIGKILL)

    async def vanish(self) -> None:
        """A machine is gone with a worker and its supervisor, and another comes in its place."""
        worker = self._take_worker()
        if worker is not None:
            for pid in worker.children():
                self.note("vanish", pid)
            await asyncio.to_thread(worker.vanish)
            await asyncio.sleep(self.chance.random() * TTL_S)
            self.workers.append(self._worker())

    async def freeze(self) -> None:
        """SIGSTOP for longer than the lease, then SIGCONT."""
        if pid := self._a_child():
            seconds = TTL_S * (1.2 + self.chance.random())
            self.note("freeze", pid, seconds)
            if send(pid, signal.SIGSTOP):
                await asyncio.sleep(seconds)
                send(pid, signal.SIGCONT)

    async def redeploy(self) -> None:
        """SIGTERM, and a new one when it has ended."""
        worker = self._take_worker()
        if worker is not None:
            self.note("redeploy")
            worker.terminate()
            await self._ended(worker)
            self.workers.append(self._worker())

    async def block(self) -> None:
        """A job blocks the event loop of its worker, now and then for longer than the lease."""
        from .tasks import app, blocking

        seconds = TTL_S * (0.3 + self.chance.random() * 1.5)
        self.note("block", seconds=seconds)
        async with type(app)(self.primary.url, namespace=NAMESPACE, shards=self._shards) as queue:
            with contextlib.suppress(Exception):  # the server may be away; then nobody is blocked
                job = await queue.enqueue(blocking.name, seconds)
                self.ledger.write("stored", id=job.id, task=blocking.name, word="created")

    async def _enqueue(self, task: Any, *args: Any) -> Job[Any] | None:
        """A job that is part of a fault; None if the server is away just now."""
        from .tasks import app

        async with type(app)(self.primary.url, namespace=NAMESPACE, shards=self._shards) as queue:
            with contextlib.suppress(Exception):
                job = await queue.enqueue(task.name, *args)
                self.ledger.write("stored", id=job.id, task=task.name, word="created")
                return job
        return None

    async def fork(self) -> None:
        """A job forks, and the fork comes back from its function."""
        from .tasks import forking, forking_isolated

        self.note("fork")
        await self._enqueue(self.chance.choice((forking, forking_isolated)))

    async def poison(self) -> None:
        """A job that kills its process, again and again, until it is set aside."""
        from .tasks import poison

        await self._enqueue(poison)

    async def stuck_exit(self) -> None:
        """A process that a job has made unable to exit is asked to stop; another has to come in its place."""
        from .tasks import app, sticky

        self.note("stuck_exit")
        job = await self._enqueue(sticky)
        if job is None:
            return
        async with type(app)(self.primary.url, namespace=NAMESPACE, shards=self._shards) as queue:
            with contextlib.suppress(Exception):
                pid = await queue.job(job.id).result(5)
                if any(pid in worker.children() for worker in self.workers):
                    send(pid, signal.SIGTERM)

    async def terminate_all(self) -> None:
        """SIGTERM to every process of a worker, as service managers do it, and a new one when it has ended."""
        worker = self._take_worker()
        if worker is not None:
            self.note("terminate_all")
            pids = [worker.process.pid, *worker.children()]
            self.chance.shuffle(pids)
            for pid in pids:
                send(pid, signal.SIGTERM)
            await self._ended(worker)
            self.workers.append(self._worker())

    async def full_log(self) -> None:
        """A worker whose log can't be written works for a while, and is asked to stop."""
        self.note("full_log")
        worker = self._worker(Path("/dev/full"))
        await asyncio.sleep(2 * TTL_S)
        worker.terminate()
        await self._ended(worker)

    async def idle_drop(self) -> None:
        """Connections that are idle for a moment carry nothing any more, and nobody is told."""
        seconds = 2 * TTL_S
        self.note("idle_drop", seconds=seconds)
        self.proxy.idle_limit_s = 1.2 + self.chance.random()
        await asyncio.sleep(seconds)
        self.proxy.idle_limit_s = math.inf

    async def _ended(self, worker: Program) -> None:
        """Wait for the end of a worker that was asked to stop; one that has to be killed is a problem."""
        if await asyncio.to_thread(worker.wait) == -signal.SIGKILL:
            self.ledger.write("stuck", word=worker.log.name)

    async def cut(self) -> None:
        """Every connection is cut."""
        self.note("cut")
        self.proxy.cut()

    async def half_open(self) -> None:
        """Open connections carry nothing any more, and are cut after a while."""
        seconds = 0.5 + self.chance.random() * 2 * TTL_S
        self.note("half_open", seconds=seconds)
        self.proxy.freeze_open_connections()
        await asyncio.sleep(seconds)
        self.proxy.frozen_connections = set()
        self.proxy.cut()

    async def delay(self) -> None:
        """Everything takes longer."""
        seconds = 1 + self.chance.random() * 3
        self.note("delay", seconds=seconds)
        self.proxy.delay_s = 0.02 + self.chance.random() * 0.3
        await asyncio.sleep(seconds)
        self.proxy.delay_s = 0.0

    async def lost_replies(self) -> None:
        """Calls are carried out, and their replies are lost with the connection."""
        self.note("lost_replies")
        self.proxy.drop_replies += self.chance.randint(1, 10)

    async def client_kill(self) -> None:
        """The server cuts its clients."""
        self.note("client_kill")
        await self._order("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def client_pause(self) -> None:
        """The server answers nobody for a while."""
        seconds = 0.2 + self.chance.random() * 1.5
        self.note("client_pause", seconds=seconds)
        await self._order("CLIENT", "PAUSE", str(round(seconds * 1000)))

    async def script_flush(self) -> None:
        """The server forgets the scripts."""
        self.note("script_flush")
        await self._order("SCRIPT", "FLUSH")

    async def _order(self, *command: str) -> None:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            async with self.direct() as client:
                await client.execute_command(*command)

    async def redis_restart(self) -> None:
        """The server is killed, and comes back with its append-only file."""
        self.note("redis_restart")
        await self._restart()

    async def redis_restart_everysec(self) -> None:
        """The same where the file is synced once a second; a killed process loses nothing by that, a machine might."""
        await self._order("CONFIG", "SET", "appendfsync", "everysec")
        await asyncio.sleep(1.0)
        self.note("redis_restart_everysec")
        await self._restart()

    async def redis_stands_still(self) -> None:
        """The server does nothing for a while, mostly for longer than the leases."""
        seconds = TTL_S * (0.5 + 2 * self.chance.random())
        self.note("redis_stands_still", seconds=seconds)
        server = self.primary
        server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        server.send_signal(signal.SIGCONT)

    async def redis_full(self) -> None:
        """The server has no memory left for a while."""
        self.note("redis_full")
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            async with self.direct() as client:
                used = (await client.info("memory"))["used_memory"]
                await client.execute_command("CONFIG", "SET", "maxmemory", str(used))
        await asyncio.sleep(1 + 2 * self.chance.random())
        await self._order("CONFIG", "SET", "maxmemory", "0")

    async def _restart(self) -> None:
        await asyncio.to_thread(self.primary.kill)
        await asyncio.sleep(self.chance.random() * 2)
        await asyncio.to_thread(self.primary.start)

    async def failover(self) -> None:
        """The primary dies and its replica takes over, without what had not reached it; producers send that again."""
        async with self.direct(self.replica) as client:
            if (await client.info("replication")).get("master_link_status") != "up":
                return
            old, new = self.primary, self.replica
            await asyncio.to_thread(old.kill)
            await client.execute_command("REPLICAOF", "NO", "ONE")
        new.forget_primary()
        self.note("failover")
        self.primary, self.proxy.target = new, new.port
        self.proxy.cut()
        for producer in self.producers:
            send(producer.process.pid, signal.SIGUSR1)
        await asyncio.to_thread(old.close)
        self.replica = await asyncio.to_thread(self._server_after, new)

    # The end of a run

    async def end_producers(self) -> None:
        """No more jobs come."""
        for producer in self.producers:
            producer.terminate()
        for producer in self.producers:
            await asyncio.to_thread(producer.wait)

    async def settle_down(self, done: Callable[[Any], Awaitable[int]]) -> None:
        """Without further faults workers finish, and end; gives up when nothing moves for a while."""
        last, moved = -1, time.monotonic()
        while time.monotonic() - moved < PATIENCE_S:
            async with self.direct() as client:
                left = await done(client)
            if left == 0:
                break
            if left != last:
                last, moved = left, time.monotonic()
            await asyncio.sleep(0.2)
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            await self._ended(worker)
