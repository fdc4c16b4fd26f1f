"""Worker programs with several shards: killed, and looked at from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from tests.process.test_workers import ended
from tests.process.worker import Notes, Worker, environment
from tracked_queue import TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.states import State
from tracked_queue.reports.instances import read_instances

Start = Callable[..., Worker]
SHARDS = 3
# The instances of two processes, each in every shard.
LEASES = 2 * SHARDS

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def several(server: RedisServer, namespace: str) -> AsyncIterator[TrackedQueue]:
    made = TrackedQueue(server.url, namespace=namespace, shards=SHARDS)
    yield made
    await made.aclose()


@pytest.mark.parametrize("supervised", [True, False])
async def test_a_killed_process_is_recovered_in_every_shard(
    start: Start, several: TrackedQueue, notes: Notes, supervised: bool
) -> None:
    """Its supervisor knows its leases with their shards; without one they run out, each for itself."""
    ttl = "60" if supervised else "1.5"
    options = ("--concurrency", "40") if not supervised else ("--processes", "2", "--concurrency", "40")
    workers = [
        start(*options, HEARTBEAT_TTL=ttl, TRACKED_QUEUE_SHARDS=str(SHARDS)) for _ in range(1 if supervised else 2)
    ]
    for worker in workers:
        worker.ready(LEASES if supervised else SHARDS)
    # Long enough that all of them still run when the process is killed, on a busy machine too.
    jobs = [await several.enqueue("sleep", 5.0) for _ in range(60)]
    assert set(Counter(connections_of(several).shards.of_id(job.id) for job in jobs)) == set(range(SHARDS))
    notes.wait("start", 60)
    owned: dict[int, set[int]] = {}
    for shard, store in enumerate(connections_of(several).stores):
        for one in await read_instances(store):
            owned.setdefault(one.pid, set()).update([shard] if one.owned else [])
    if supervised:
        victim = max(owned, key=lambda pid: len(owned[pid]))
        os.kill(victim, signal.SIGKILL)
    else:
        (victim,) = workers[0].children()
        workers[0].vanish()
    assert owned[victim], "both have their part of 60 jobs in 2 x 40 places"
    workers[-1].wait_event("lease.recovered", len(owned[victim]))
    assert set(await ended(jobs, 40)) == {State.SUCCEEDED}
    infos = [await job.info() for job in jobs]
    assert all(info.charges == 0 for info in infos)
    lost = Counter(
        connections_of(several).shards.of_id(job.id) for job, info in zip(jobs, infos, strict=True) if info.recoveries
    )
    assert set(lost) <= owned[victim] and len(lost) > 0


async def test_a_poison_job_dies_and_its_neighbours_in_other_shards_do_not(start: Start, several: TrackedQueue) -> None:
    worker = start("--concurrency", "10", TRACKED_QUEUE_SHARDS=str(SHARDS))
    worker.ready(SHARDS)
    good = [await several.enqueue("short", 0.1) for _ in range(60)]
    bad = await several.options(id="bad~0").enqueue("poison")
    assert await ended([bad], 60) == [State.DEAD]
    assert set(await ended(good, 60)) == {State.SUCCEEDED}
    assert {(await job.info()).charges for job in good} == {0}


async def test_an_innocent_suspect_is_not_charged_for_one_of_another_shard(
    start: Start, server: RedisServer, namespace: str
) -> None:
    """Both fetch at the same moment when a process starts; only one of them may bring suspects."""
    async with TrackedQueue(server.url, namespace=namespace, shards=2) as several:
        bad = await several.options(id="bad~0").enqueue("poison")
        good = [await several.options(id=f"good{n}~1").enqueue("short", 0.3) for n in range(4)]
        for job in (bad, *good):  # as recovery leaves them after their second death
            keys = connections_of(several).shards.keys(connections_of(several).shards.of_id(job.id))
            await (
                connections_of(several)
                .store_of(job.id)
                .read(
                    ("HSET", keys.named("job", job.id), "pool", 2, "past", 100, "deaths", 1, "delivery", 1),
                    ("LREM", keys.named("queue", "default"), 1, job.id),
                    ("ZADD", keys.named("suspected", "default"), 1, job.id),
                    ("SADD", keys.single("suspecting"), "default"),
                )
            )
        start("--concurrency", "10", TRACKED_QUEUE_SHARDS="2")
        assert await ended([bad], 60) == [State.DEAD]
        assert set(await ended(good, 60)) == {State.SUCCEEDED}
        assert {(await job.info()).charges for job in good} == {0}


async def test_the_command_line_sees_all_shards(
    start: Start, several: TrackedQueue, server: RedisServer, namespace: str
) -> None:
    """It finds their number by itself."""

    def cli(*arguments: str, exit: int = 0) -> str:
        command = [sys.executable, "-m", "tracked_queue", *arguments]
        done = subprocess.run(
            command, env=environment(server.url, namespace), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == exit, done.stderr
        return done.stdout

    waiting = [await several.enqueue("unknown-queue", 1) for _ in range(12)]
    assert json.loads(cli("queues", "--json"))["queues"][0]["length"] == 12
    assert f"{waiting[0].id}" in cli("job", waiting[0].id)
    assert cli("cancel", *(job.id for job in waiting)).count("cancelled") == 12
    worker = start(TRACKED_QUEUE_SHARDS=str(SHARDS))
    worker.ready(SHARDS)
    shown = json.loads(cli("instances", "--json"))
    assert sorted(item["shard"] for item in shown) == list(range(SHARDS))
    assert "shard" in cli("instances").lower().splitlines()[0]
    assert cli("health", "--ready").startswith("ready: 1")
    assert "empty" in cli("health", "--queue", "default", "--max-age", "5m")
    cli("quiet", shown[0]["label"])
    assert all(item["quiet"] for item in json.loads(cli("instances", "--json")))
    cli("quiet", "--undo", shown[0]["label"])
    dead = [await several.options(id=f"d{n}~{n}").enqueue("failing") for n in range(SHARDS)]
    assert await ended(dead) == [State.DEAD] * SHARDS
    assert len(json.loads(cli("dead", "list", "--json"))) == SHARDS
    assert cli("dead", "requeue", "--all").startswith("3 dead jobs")
    assert await ended(dead) == [State.DEAD] * SHARDS
    assert cli("dead", "purge", dead[1].id).startswith("1 dead jobs")
    assert len(json.loads(cli("dead", "list", "--json"))) == SHARDS - 1
    assert {line.split()[0] for line in cli("doctor", exit=1).splitlines()} <= {"OK", "NOTE", "WARNING", "PROBLEM"}
