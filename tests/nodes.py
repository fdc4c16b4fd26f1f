"""A Redis Cluster on loopback for tests and benchmarks: primaries with replicas, slots spread evenly."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Sequence
from typing import Any

import redis
from tracked_queue.chaos.server import RedisServer

SLOTS = 16384
READY_S = 30.0
# The cluster's bus listens this far above a server's port.
BUS_OFFSET = 10_000
NODE_TIMEOUT_MS = 1500
TRIES = 10


class ClusterNodes:
    """
    `primaries` servers with slots of their own, the first ones first, each with `replicas` others.

    `url` names the primaries; a client finds the rest by itself.
    """

    def __init__(self, primaries: int = 3, replicas: int = 1) -> None:
        count = primaries * (1 + replicas)
        self.servers: list[RedisServer] = []
        try:
            while len(self.servers) < count:
                self.servers.append(_start())
            self.primaries = self.servers[:primaries]
            self._join(primaries)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Its address."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.primaries)

    @property
    def version(self) -> tuple[int, ...]:
        """Of its servers."""
        facts = ask(self._live()[0], "INFO", "server").decode()
        number = next(line for line in facts.splitlines() if line.startswith("redis_version:")).partition(":")[2]
        return tuple(map(int, number.split(".")[:2]))

    def _join(self, primaries: int) -> None:
        for server in self.servers[1:]:
            ask(server, "CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        for at, server in enumerate(self.primaries):
            first, last = SLOTS * at // primaries, SLOTS * (at + 1) // primaries
            ask(server, "CLUSTER", "ADDSLOTS", *range(first, last))
        names = [ask(server, "CLUSTER", "MYID").decode() for server in self.primaries]
        self._until(
            lambda: all(len(ask(s, "CLUSTER", "NODES").splitlines()) == len(self.servers) for s in self.servers)
        )
        for at, server in enumerate(self.servers[primaries:]):
            self._until(
                lambda name=names[at % primaries], server=server: name.encode() in ask(server, "CLUSTER", "NODES")
            )
            ask(server, "CLUSTER", "REPLICATE", names[at % primaries])
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until every live server says that the cluster is well, and every replica is in step."""
        self._until(lambda: all(map(_well, self._live())))

    def _live(self) -> list[RedisServer]:
        return [server for server in self.servers if server.process is not None and server.process.poll() is None]

    def owner(self, slot: int) -> RedisServer:
        """The live server that has a slot, as the others see it."""
        for first, last, (_, port, *_), *_ in ask(self._live()[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise LookupError(f"nobody has slot {slot}")

    def owners(self) -> list[RedisServer]:
        """The servers that have slots now."""
        ports = {port for _, _, (_, port, *_), *_ in ask(self._live()[0], "CLUSTER", "SLOTS")}
        return [server for server in self.servers if server.port in ports]

    def _until(self, check: Any) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                if check():
                    return
            except redis.RedisError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster does not come up: {ask(self._live()[0], 'CLUSTER', 'NODES').decode()}")
            time.sleep(0.05)

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.close()


def ask(server: RedisServer, *command: Any) -> Any:
    """One command to one server of the cluster, whatever slots it has; the reply as it came."""
    with redis.Redis(port=server.port, protocol=2) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def move_slot(slot: int, source: RedisServer, target: RedisServer, *, most: int | None = None) -> None:
    """
    Begin to move a slot, and move its keys; `end_move` makes it the target's.

    Args:
        most: At most this many of its keys; the rest stay.
    """
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(source, "CLUSTER", "MYID"))
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ask(target, "CLUSTER", "MYID"))
    move_keys(slot, source, target, most=most)


def move_keys(slot: int, source: RedisServer, target: RedisServer, *, most: int | None = None) -> int:
    """Move keys of a slot that is being moved; how many."""
    moved = 0
    while most is None or moved < most:
        keys: Sequence[bytes] = ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100 if most is None else most - moved)
        if not keys:
            break
        ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        moved += len(keys)
    return moved


def end_move(slot: int, servers: Sequence[RedisServer], target: RedisServer) -> None:
    """The slot is the target's now."""
    name = ask(target, "CLUSTER", "MYID")
    for server in (target, *(other for other in servers if other is not target)):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name)


def _well(server: RedisServer) -> bool:
    told = ask(server, "CLUSTER", "INFO").decode()
    facts = ask(server, "INFO", "replication").decode()
    in_step = "role:master" in facts or "master_link_status:up" in facts
    return "cluster_state:ok" in told and in_step


def _start() -> RedisServer:
    """A server of a cluster that it has not joined yet; another program may take its port first, so it is tried again."""
    for _ in range(TRIES):
        with contextlib.suppress(RuntimeError):
            return RedisServer(
                "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                "--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0",
                "--repl-diskless-sync-delay", "0", port=free_port_with_bus(),
            )  # fmt: skip
    raise RuntimeError("no server of a cluster could be started")


def free_port_with_bus() -> int:
    """A port on loopback that is free now, as is that of its bus."""
    while True:
        port = random.SystemRandom().randrange(15_000, 50_000)
        try:
            for number in (port, port + BUS_OFFSET):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
