"""What can be done to the world of a chaos run. Each fault ends by itself, and puts right what it has changed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import redis.exceptions

from ..app import TrackedQueue, connections_of
from ..model.job import Job
from .calls import REMEMBERED_S
from .checker import POISON
from .clock import JUMPS_S, go_by_it, set_clock
from .ledger import DEFAULT_APP
from .programs import Program, send
from .world import NAMESPACE, World

Fault = Callable[[], Coroutine[Any, Any, None]]
# How many seconds behind a replica is when it takes over late; producers send the jobs of that time again.
LATE_S = (0.5, 3.0)


class Faults:
    """The faults of one world; `kinds` are their weights and what to call."""

    def __init__(self, world: World) -> None:
        self._world, self._chance, self._note = world, world.chance, world.note
        self._recent: deque[tuple[float, str, str, tuple[Any, ...]]] = deque()
        self._ahead_s = 0

    @property
    def kinds(self) -> dict[str, tuple[int, Fault]]:
        """Each kind's weight, which is how often it comes relative to the others, and the method that causes it."""
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
            "late_failover": (1, self.late_failover),
            "clock": (2, self.clock),
            "idle_drop": (1, self.idle_drop),
            "terminate_all": (1, self.terminate_all),
            "full_log": (1, self.full_log),
            "redis_stands_still": (1, self.redis_stands_still),
            "redis_full": (1, self.redis_full),
            "redis_disk_full": (1, self.redis_disk_full),
        }
        if self._world.target == DEFAULT_APP:
            kinds["block"] = (1, self.block)
            kinds["fork"] = (2, self.fork)
            kinds["stuck_exit"] = (1, self.stuck_exit)
            kinds["poison"] = (2, self.poison)
        if self._world.crowds:
            kinds["crowd_kill"] = (1, self.crowd_kill)
        return kinds

    # Processes

    def _take_worker(self) -> Program | None:
        """Take out a worker, which the fault replaces at its end; no other fault touches it meanwhile."""
        workers = self._world.workers
        return workers.pop(self._chance.randrange(len(workers))) if workers else None

    def _a_child(self) -> int:
        workers = self._world.workers
        children = self._chance.choice(workers).children() if workers else []
        return self._chance.choice(children) if children else 0

    async def kill(self) -> None:
        """SIGKILL of one worker process; its supervisor starts another."""
        if pid := self._a_child():
            self._note("kill", pid)
            send(pid, signal.SIGKILL)

    async def vanish(self) -> None:
        """A machine vanishes with a worker and its supervisor, and another takes its place."""
        worker = self._take_worker()
        if worker is not None:
            for pid in worker.children():
                self._note("vanish", pid)
            await asyncio.to_thread(worker.vanish)
            await asyncio.sleep(self._chance.random() * self._world.ttl_s)
            self._world.workers.append(self._world.worker())

    async def crowd_kill(self) -> None:
        """Many instances die at once, and as many new ones start."""
        crowds = self._world.crowds
        if crowds:
            crowd = crowds.pop(self._chance.randrange(len(crowds)))
            for pid in crowd.children():
                self._note("crowd_kill", pid)
            await asyncio.to_thread(crowd.vanish)
            crowds.append(self._world.crowd())

    async def freeze(self) -> None:
        """SIGSTOP for longer than the lease, then SIGCONT."""
        if pid := self._a_child():
            seconds = self._world.ttl_s * (1.2 + self._chance.random())
            self._note("freeze", pid, seconds)
            if send(pid, signal.SIGSTOP):
                await asyncio.sleep(seconds)
                send(pid, signal.SIGCONT)

    async def redeploy(self) -> None:
        """SIGTERM to a worker, and a new worker once it has ended."""
        worker = self._take_worker()
        if worker is not None:
            self._note("redeploy")
            worker.terminate()
            await self._world.ended(worker)
            self._world.workers.append(self._world.worker())

    async def terminate_all(self) -> None:
        """SIGTERM to every process of a worker, as service managers send it, and a new worker once it has ended."""
        worker = self._take_worker()
        if worker is not None:
            self._note("terminate_all")
            pids = [worker.process.pid, *worker.children()]
            self._chance.shuffle(pids)
            for pid in pids:
                send(pid, signal.SIGTERM)
            await self._world.ended(worker)
            self._world.workers.append(self._world.worker())

    async def full_log(self) -> None:
        """A worker whose log can't be written works for a while, and is asked to stop."""
        self._note("full_log")
        worker = self._world.worker(Path("/dev/full"))
        await asyncio.sleep(2 * self._world.ttl_s)
        worker.terminate()
        await self._world.ended(worker)

    # Jobs

    @contextlib.asynccontextmanager
    async def _queue(self) -> AsyncIterator[TrackedQueue]:
        queue = TrackedQueue(self._world.primary.url, namespace=NAMESPACE, shards=self._world.shards)
        go_by_it(queue)
        async with queue:
            yield queue

    async def _enqueue(self, task: str, *args: Any, id: str | None = None) -> Job[Any] | None:
        """A job of .tasks that is part of a fault; None if the server is away just now."""
        async with self._queue() as queue:
            id = id or connections_of(queue).shards.new_id()
            now = time.monotonic()
            self._recent.append((now, id, task, args))
            while self._recent[0][0] < now - REMEMBERED_S:
                self._recent.popleft()
            with contextlib.suppress(Exception):
                job = await queue.options(id=id).enqueue(task, *args)
                self._world.ledger.write("stored", id=job.id, task=task, word="created" if job.created else "exists")
                return job
        return None

    async def block(self) -> None:
        """A job blocks the event loop of its worker, now and then for longer than the lease."""
        seconds = self._world.ttl_s * (0.3 + self._chance.random() * 1.5)
        self._note("block", seconds=seconds)
        await self._enqueue("blocking", seconds)

    async def fork(self) -> None:
        """A job forks, and the fork comes back from its function."""
        self._note("fork")
        await self._enqueue(self._chance.choice(("forking", "forking-isolated")))

    async def poison(self) -> None:
        """A job that kills its process, again and again, until it is set aside."""
        await self._enqueue(POISON)

    async def stuck_exit(self) -> None:
        """A process that a job has made unable to exit is asked to stop; another has to come in its place."""
        self._note("stuck_exit")
        job = await self._enqueue("sticky")
        if job is None:
            return
        async with self._queue() as queue:
            with contextlib.suppress(Exception):
                pid = await queue.job(job.id).result(5)
                if any(pid in worker.children() for worker in self._world.workers):
                    send(pid, signal.SIGTERM)

    # The network

    async def idle_drop(self) -> None:
        """Connections that were idle for a moment silently stop carrying data."""
        seconds = 2 * self._world.ttl_s
        self._note("idle_drop", seconds=seconds)
        self._world.proxy.idle_limit_s = 1.2 + self._chance.random()
        await asyncio.sleep(seconds)
        self._world.proxy.idle_limit_s = math.inf

    async def cut(self) -> None:
        """Every connection is cut."""
        self._note("cut")
        self._world.proxy.cut()

    async def half_open(self) -> None:
        """Open connections carry nothing any more, and are cut after a while."""
        seconds = 0.5 + self._chance.random() * 2 * self._world.ttl_s
        self._note("half_open", seconds=seconds)
        self._world.proxy.freeze_open_connections()
        await asyncio.sleep(seconds)
        self._world.proxy.frozen_connections = set()
        self._world.proxy.cut()

    async def delay(self) -> None:
        """Everything takes longer."""
        seconds = 1 + self._chance.random() * 3
        self._note("delay", seconds=seconds)
        self._world.proxy.delay_s = 0.02 + self._chance.random() * 0.3
        await asyncio.sleep(seconds)
        self._world.proxy.delay_s = 0.0

    async def lost_replies(self) -> None:
        """Calls are carried out, and their replies are lost with the connection."""
        self._note("lost_replies")
        self._world.proxy.drop_replies += self._chance.randint(1, 10)

    # The server

    async def client_kill(self) -> None:
        """The server cuts its clients."""
        self._note("client_kill")
        await self._order("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def client_pause(self) -> None:
        """The server answers nobody for a while."""
        seconds = 0.2 + self._chance.random() * 1.5
        self._note("client_pause", seconds=seconds)
        await self._order("CLIENT", "PAUSE", str(round(seconds * 1000)))

    async def script_flush(self) -> None:
        """The server forgets the scripts."""
        self._note("script_flush")
        await self._order("SCRIPT", "FLUSH")

    async def _order(self, *command: str) -> None:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            async with self._world.direct() as client:
                await client.execute_command(*command)

    async def redis_restart(self) -> None:
        """The server is killed, and comes back with its append-only file."""
        self._note("redis_restart")
        await self._restart()

    async def redis_restart_everysec(self) -> None:
        """The same with a file synced once a second: in a slow sync, acknowledged writes are not even in the file."""
        await self._order("CONFIG", "SET", "appendfsync", "everysec")
        await asyncio.sleep(1.0)
        self._note("redis_restart_everysec")
        await self._restart()
        await self._send_again()

    async def _restart(self) -> None:
        await asyncio.to_thread(self._world.primary.kill)
        await asyncio.sleep(self._chance.random() * 2)
        await asyncio.to_thread(self._world.primary.start)

    async def redis_stands_still(self) -> None:
        """The server does nothing for a while, mostly for longer than the leases, now and then for ten seconds."""
        seconds = 10.0 if self._chance.random() < 0.2 else self._world.ttl_s * (0.5 + 2 * self._chance.random())
        self._note("redis_stands_still", seconds=seconds)
        server = self._world.primary
        server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        server.send_signal(signal.SIGCONT)

    async def redis_full(self) -> None:
        """The server has no memory left for a while."""
        self._note("redis_full")
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            async with self._world.direct() as client:
                used = (await client.info("memory"))["used_memory"]
                await client.execute_command("CONFIG", "SET", "maxmemory", str(used))
        await asyncio.sleep(1 + 2 * self._chance.random())
        await self._order("CONFIG", "SET", "maxmemory", "0")

    async def redis_disk_full(self) -> None:
        """The server can't write its snapshot, as on a full disk, and refuses every write for a while."""
        self._note("redis_disk_full")
        snapshot = self._world.primary.folder / "dump.rdb"
        with contextlib.suppress(FileNotFoundError):
            snapshot.unlink()
        snapshot.mkdir()  # a file can't be moved to where a folder stands
        await self._order("CONFIG", "SET", "save", "3600 1")
        await self._order("BGSAVE")
        await asyncio.sleep(1 + 2 * self._chance.random())
        await self._order("CONFIG", "SET", "save", "")
        snapshot.rmdir()

    async def clock(self) -> None:
        """The server's clock jumps, by up to two days, forward or back."""
        ahead_s = self._chance.choice([seconds for seconds in JUMPS_S if seconds != self._ahead_s])
        self._note("clock", seconds=ahead_s - self._ahead_s)
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            async with self._world.direct() as client:
                await set_clock(client, self._world.tags, ahead_s)
                self._ahead_s = ahead_s

    async def failover(self) -> None:
        """The primary dies and its replica takes over, without the writes that had not reached it."""
        async with self._world.direct(self._world.replica) as client:
            if (await client.info("replication")).get("master_link_status") == "up":
                await asyncio.to_thread(self._world.primary.kill)
                await client.execute_command("REPLICAOF", "NO", "ONE")
                self._note("failover")
                await self._taken_over()

    async def late_failover(self) -> None:
        """The same with a replica that is seconds behind."""
        async with self._world.direct(self._world.replica) as client:
            if (await client.info("replication")).get("master_link_status") == "up":
                seconds = self._chance.uniform(*LATE_S)
                await client.execute_command("REPLICAOF", "NO", "ONE")
                await asyncio.sleep(seconds)
                await asyncio.to_thread(self._world.primary.kill)
                self._note("late_failover", seconds=seconds)
                await self._taken_over()

    async def _taken_over(self) -> None:
        await self._world.promote()
        await self._send_again()

    async def _send_again(self) -> None:
        """Send the last calls again, as clients with an outbox do when a server comes back without its last writes."""
        for producer in self._world.producers:
            send(producer.process.pid, signal.SIGUSR1)
        for _, id, task, args in list(self._recent):
            await self._enqueue(task, *args, id=id)
