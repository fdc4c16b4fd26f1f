"""
Records, lists and sets in Redis that something has damaged, given to a real worker, to recovery, and to the command line: none of it
crashes or stands still, and the jobs beside them run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fuzz.test_pure import CORPUS
from tracked_queue import Concurrency, Rate, TrackedQueue, Unique, current_job
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.errors import JobError
from tracked_queue.model.cipher import Cipher
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.states import State
from tracked_queue.reports.dead import DeadFilter, read_dead
from tracked_queue.reports.instances import read_active, read_instances
from tracked_queue.reports.queues import read_overview

pytestmark = pytest.mark.timeout(900)

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "40"))
DAMAGED = 60  # records of one round
FIELDS = [
    "task", "queue", "state", "args", "kwargs", "options", "tracked", "attempts", "interruptions", "recoveries", "charges",
    "buffered", "delivery", "lease", "tied", "bound", "unique", "until", "limits", "lane", "expires_ms", "due_ms", "queued_ms",
    "pool", "past", "charges", "deaths", "checkpoint", "followed", "keep_ms", "waits", "failed", "on_failure", "holds", "wants", "gathering", "named", "revives", "of_dead", "cancel", "waiter", "failures",
    "lines", "delay_ms", "listed",
]  # fmt: skip


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Any:
    running = RedisServer()
    yield running
    running.close()


@pytest.fixture
async def app(server: RedisServer, namespace: str) -> AsyncIterator[TrackedQueue]:
    made = TrackedQueue(
        server.url, namespace=namespace, heartbeat_interval=0.2, heartbeat_ttl=2.0, recovery_interval=0.2, block=0.2,
        cancel_grace=0.3, concurrency=20,
    )  # fmt: skip

    @made.task(name="plain", max_attempts=1)
    async def plain(n: int = 0) -> int:
        return n

    @made.task(
        name="bound",
        max_attempts=1,
        limit=[Concurrency(3, key="n"), Rate(1000, per=1)],
        unique=Unique(by="n"),
        fair_by="n",
    )
    async def bound(n: int = 0) -> int:
        await current_job().checkpoint(n)
        return n

    yield made
    await made.aclose()


async def store_jobs(app: TrackedQueue, chance: random.Random) -> list[str]:
    """Jobs of every kind and state that are about to be damaged."""
    plain, bound = app.tasks.get("plain"), app.tasks.get("bound")
    assert plain and bound
    ids = []
    for n in range(DAMAGED):
        kind = chance.randrange(5)
        task = bound if kind in (1, 4) else plain
        options: dict[str, Any] = {"id": f"bad-{n}"}
        if kind == 2:
            options["delay"] = 0.05
        if kind == 3 and ids:
            options["after"] = [chance.choice(ids)]
            options["on_failure"] = chance.choice(["fail", "ignore", "fallback"])
        if kind == 4:
            options |= {"expires": 60, "headers": {"a": 1}}
        await task.options(**options).enqueue(1000 + n)
        ids.append(f"bad-{n}")
    return ids


async def damage(app: TrackedQueue, ids: list[str], chance: random.Random) -> None:
    store, keys = connections_of(app).store, connections_of(app).keys
    for id in ids:
        key = keys.named("job", id)
        what = chance.randrange(12)
        if what == 0:
            await store.read(("DEL", key))
        elif what == 1:
            await store.read(("DEL", key), (chance.choice(["SET", "LPUSH", "SADD"]), key, chance.choice(CORPUS)))
        elif what == 2:
            await store.read(("HDEL", key, *chance.sample(FIELDS, 3)))
        else:
            pairs = [
                item for name in chance.sample(FIELDS, chance.randint(1, 3)) for item in (name, chance.choice(CORPUS))
            ]
            await store.read(("HSET", key, *pairs))
    for name, verb in (("queue:default", "LPUSH"), ("queue:default", "RPUSH")):
        await store.read((verb, f"{keys.tag}:{name}", chance.choice(CORPUS), chance.choice(ids)))
    await store.read(("ZADD", keys.single("scheduled"), chance.choice([0, 1, 1e18]), chance.choice(CORPUS)))


async def look_at_everything(app: TrackedQueue, ids: list[str]) -> None:
    """What people look at shows what it can, with an error of ours for the rest."""
    await read_overview(connections_of(app).stores)
    for instance in await read_instances(connections_of(app).store):
        await read_active(connections_of(app).store, instance.lease)
    async for _ in read_dead(connections_of(app).store, DeadFilter(), Cipher([])):
        pass
    await producer_of(app).job_states(ids)
    for id in ids:
        with contextlib.suppress(JobError):
            await app.job(id).info()


async def test_a_worker_among_damaged_records(app: TrackedQueue) -> None:
    plain, bound = app.tasks.get("plain"), app.tasks.get("bound")
    assert plain and bound
    for round_ in range(ROUNDS):
        chance = random.Random(f"{os.environ.get('FUZZ_SEED', '1')}.{round_}")
        ids = await store_jobs(app, chance)
        if round_ % 3 == 2:  # some are with an instance that is lost while they are damaged
            await connections_of(app).store.run(t.register("lost", 2, 0.2, {"label": "lost"}))
            await connections_of(app).store.run(t.fetch("lost", 1, 20, 5, ["default"]))
        await damage(app, ids, chance)
        good = [await plain.enqueue(n) for n in range(10)] + [await bound.enqueue(n) for n in range(10)]
        if round_ % 3 == 2:
            await connections_of(app).store.run(t.release("lost", t.End.DIED))
        await look_at_everything(app, ids)
        try:
            code = await asyncio.wait_for(app.run_worker(burst=True, handle_signals=False), 30)
        except Exception as error:
            raise AssertionError(f"round {round_}: the worker ended with {error!r}") from error
        assert code == 0, round_
        states = await producer_of(app).job_states([job.id for job in good])
        assert states == [State.SUCCEEDED] * len(good), (round_, states)
        await look_at_everything(app, ids)
        await app.cancel_many(queue="default")
        keys = [key for (found,) in [await connections_of(app).store.read(("KEYS", "*"))] for key in found]
        await connections_of(app).store.read(("DEL", *keys))
        connections_of(app).agreement.agreed = True


async def test_the_command_line_over_damaged_records(app: TrackedQueue, server: RedisServer) -> None:
    base = ["--redis-url", server.url, "--namespace", app.settings.namespace]
    for round_ in range(max(2, ROUNDS // 10)):
        chance = random.Random(f"cli.{round_}")
        ids = await store_jobs(app, chance)
        await damage(app, ids, chance)
        await asyncio.wait_for(app.run_worker(burst=True, handle_signals=False), 30)
        await connections_of(app).store.read(
            ("ZADD", connections_of(app).keys.single("dead"), 5, chance.choice(CORPUS), 6, chance.choice(ids))
        )
        for command in (
            ["queues"], ["instances", "--jobs"], ["dead", "list"], ["schedules"], ["recover"], ["cancel", *ids[:3]], ["job", ids[0]],
            ["dead", "requeue", "--all"], ["dead", "purge", "--all"], ["cancel", "--queue", "default"],
        ):  # fmt: skip
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", "tracked_queue", *command, *base], capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode in (0, 1), (command, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr, (command, done.stderr)
        keys = [key for (found,) in [await connections_of(app).store.read(("KEYS", "*"))] for key in found]
        await connections_of(app).store.read(("DEL", *keys))
