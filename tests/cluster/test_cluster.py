"""Shards on a real cluster of three primaries with a replica each: spread, failover, and a slot that moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness import running_worker, wait_until
from tests.nodes import ClusterNodes, ask, end_move, free_port_with_bus, move_keys, move_slot
from tests.rights import acl_line
from tests.sharded import Ran, app_at, by_shard, task_of
from tracked_queue import EnqueueUnavailableError, StoreUnavailableError, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.operator.doctor import Level, examine
from tracked_queue.protocol.states import State
from tracked_queue.transport.cluster import slot_of

pytestmark = pytest.mark.timeout(120)

SHARDS = 6


@pytest.fixture(scope="module")
def nodes() -> Iterator[ClusterNodes]:
    running = ClusterNodes()
    yield running
    running.close()


@pytest.fixture
async def app(nodes: ClusterNodes, namespace: str) -> AsyncIterator[TrackedQueue]:
    made = app_at(nodes.url, namespace, SHARDS)
    yield made
    await made.aclose()


async def test_jobs_run_in_every_shard_on_every_primary(app: TrackedQueue, nodes: ClusterNodes) -> None:
    servers = {nodes.owner(slot_of(connections_of(app).shards.keys(shard).tag)).port for shard in range(SHARDS)}
    assert len(servers) > 1, "the shards of this namespace are all on one server"
    double = task_of(app, "double")
    jobs = await app.enqueue_many([double.call(n) for n in range(300)])
    assert set(by_shard(app, jobs)) == set(range(SHARDS))
    async with running_worker(app):
        assert [await job.result(30) for job in jobs] == [2 * n for n in range(300)]
        assert await (await double.enqueue(21)).result(10) == 42, "an idle worker wakes"
        sync = await asyncio.to_thread(double.enqueue_sync, 4)
        assert await sync.result(10) == 8
        watched = await task_of(app, "slow").enqueue(0.3)
        assert [info.state async for info in watched.watch()][-1] is State.SUCCEEDED
        group = await app.group([double.call(n) for n in range(20)], then=task_of(app, "total").step())
        assert group.then is not None and await group.then.result(20) == 380


async def test_a_primary_is_killed_while_jobs_run_and_nothing_is_lost(nodes: ClusterNodes, namespace: str) -> None:
    async with app_at(nodes.url, namespace, SHARDS, durability="replica", enqueue_timeout=30.0) as app:
        ran = Ran(app)
        async with running_worker(app), running_worker(app):
            jobs = await app.enqueue_many([ran.task.call(n) for n in range(200)])
            await wait_until(lambda: len(ran.values) > 20, what="some to have run")
            victim = nodes.owner(slot_of(connections_of(app).shards.keys(0).tag))
            others = [
                shard
                for shard in range(SHARDS)
                if nodes.owner(slot_of(connections_of(app).shards.keys(shard).tag)) is not victim
            ]
            victim.kill()
            # The shards of the other primaries go on meanwhile.
            far = await ran.task.options(id=f"far~{others[0]}", durability="memory").enqueue(1000)
            assert await far.result(20) == 1000
            during = await app.enqueue_many([ran.task.options(durability="memory").call(n) for n in range(200, 300)])
            for job in [*jobs, *during]:
                await job.result(60)
        victim.start()
        nodes.wait_ready()
        assert set(ran.values) >= set(range(300)), "each has run"
        again = sum(count - 1 for value, count in Counter(ran.values).items() if value < 1000)
        assert again <= 60, f"{again} ran more than once, beyond those that were in flight"


async def test_while_a_slot_moves_its_shard_pauses_and_nothing_is_half_done(
    app: TrackedQueue, nodes: ClusterNodes, namespace: str
) -> None:
    keys = connections_of(app).shards.keys(0)
    slot = slot_of(keys.tag)
    source = nodes.owner(slot)
    target = next(server for server in nodes.owners() if server is not source)
    ran = Ran(app)
    here = [f"here{n}~0" for n in range(50)]
    for id in here:
        await ran.task.options(id=id).enqueue(int(id[4:-2]))
    move_slot(slot, source, target, most=30)
    try:
        # The shard's scripts are refused as a whole, whatever has moved already: nothing is half done.
        async with app_at(nodes.url, namespace, SHARDS, enqueue_timeout=1.0) as impatient:
            with pytest.raises(EnqueueUnavailableError, match="moving"):
                await task_of(impatient, "double").options(id="x~0").enqueue(1)
        async with running_worker(app):
            other = await ran.task.options(id="other~1").enqueue(2000)
            assert await other.result(10) == 2000, "the other shards go on"
            waiting = asyncio.ensure_future(ran.task.options(id="late~0").enqueue(3000))
            moved = 30 + move_keys(slot, source, target, most=5)
            assert moved == 35 and not waiting.done() and ran.values == [2000]
            move_keys(slot, source, target)
            end_move(slot, nodes.owners(), target)
            late = await waiting
            for id in here:
                await app.job(id).result(30)
            assert await late.result(10) == 3000
    finally:
        end_move(slot, nodes.owners(), target)
    assert Counter(ran.values) == Counter([*range(50), 2000, 3000]), "each once"


async def test_a_slot_moves_under_running_jobs(app: TrackedQueue, nodes: ClusterNodes) -> None:
    """Beats, settles and the standing fetch follow it."""
    keys = connections_of(app).shards.keys(0)
    slot = slot_of(keys.tag)
    source = nodes.owner(slot)
    target = next(server for server in nodes.owners() if server is not source)
    ran = Ran(app)
    async with running_worker(app):
        # One waiter's connection is there before the move; the next result has to come over another.
        assert await (await ran.task.options(id="before~0").enqueue(5)).result(10) == 5
        slow = await task_of(app, "slow").options(id="slow~0").enqueue(1.0)
        await wait_until(lambda: ran.running == 1, what="it to run")
        move_slot(slot, source, target)
        end_move(slot, nodes.owners(), target)
        assert await slow.result(20) == "slept"
        info = await app.job("slow~0").info()
        assert (info.state, info.recoveries) == (State.SUCCEEDED, 0), "settled by the delivery that ran it"
        assert await (await ran.task.options(id="after~0").enqueue(7)).result(10) == 7
    assert ask(source, "CLUSTER", "COUNTKEYSINSLOT", slot) == 0


async def test_doctor_looks_at_every_primary_and_the_spread(app: TrackedQueue, nodes: ClusterNodes) -> None:
    findings = await examine(connections_of(app).stores, app.settings)
    spread = [item for item in findings if item.name == "shards"]
    count = len({nodes.owner(slot_of(connections_of(app).shards.keys(shard).tag)).port for shard in range(SHARDS)})
    assert [item.found for item in spread] == [f"{SHARDS} shards on {count} of 3 primaries"]
    assert sum(item.name.startswith("role (shard") for item in findings) == count
    assert [
        item for item in findings if item.name.startswith(("cluster", "slots")) and item.level is not Level.OK
    ] == []
    away = next(s for s in nodes.owners() if s is not nodes.owner(slot_of("{single}")))
    async with TrackedQueue(f"redis://127.0.0.1:{away.port}", namespace="single") as direct:
        with pytest.raises(StoreUnavailableError, match="has moved"):
            await direct.job("x").info()


async def test_a_cluster_needs_no_more_rights_than_the_docs_say(nodes: ClusterNodes, namespace: str) -> None:
    for server in nodes.servers:
        ask(server, "ACL", "SETUSER", "limited", *acl_line(nodes.version, namespace))
    url = nodes.url.replace("://", "://limited:secret@")
    async with app_at(url, namespace, SHARDS) as app, running_worker(app):
        jobs = await app.enqueue_many([task_of(app, "double").call(n) for n in range(30)])
        assert [await job.result(20) for job in jobs] == [2 * n for n in range(30)]
        assert await (await asyncio.to_thread(task_of(app, "double").enqueue_sync, 4)).result(10) == 8
        findings = await examine(connections_of(app).stores, app.settings)
        assert {item.level for item in findings if item.name.startswith(("ACL", "cluster"))} == {Level.OK}
    refused = {entry[7] for server in nodes.servers for entry in ask(server, "ACL", "LOG") if entry[3] != b"auth"}
    assert refused <= {b"config|get", b"config", b"scan"}, refused


async def test_a_frozen_primary_holds_up_its_own_shards_only(namespace: str) -> None:
    """It has no replica; its shards stand still while it does, and go on with it. The slots are the others' meanwhile."""
    alone = ClusterNodes(replicas=0)
    try:
        async with app_at(alone.url, namespace, SHARDS, concurrency=6, heartbeat_ttl=30.0, reply_timeout=2.0) as app:
            ran = Ran(app)
            async with running_worker(app):
                await (await ran.task.enqueue(-1)).result(20)
                victim = alone.owner(slot_of(connections_of(app).shards.keys(0).tag))
                held = [
                    s for s in range(SHARDS) if alone.owner(slot_of(connections_of(app).shards.keys(s).tag)) is victim
                ]
                free = [s for s in range(SHARDS) if s not in held]
                theirs = await app.enqueue_many([ran.task.options(id=f"held{n}~{held[0]}").call(n) for n in range(30)])
                victim.freeze()
                try:
                    others = await app.enqueue_many(
                        [ran.task.options(id=f"o{n}~{free[n % len(free)]}").call(1000 + n) for n in range(300)]
                    )
                    for job in others:
                        await job.result(30)
                finally:
                    victim.thaw()
                for job in theirs:
                    await job.result(30)
            assert Counter(ran.values) == Counter([-1, *range(30), *range(1000, 1300)]), "each once"
    finally:
        alone.close()


async def test_a_server_that_knows_no_owner_is_asked_last(nodes: ClusterNodes, namespace: str) -> None:
    """As one that came back without its files: it answers, with an empty map."""
    stranger = RedisServer("--cluster-enabled", "yes", port=free_port_with_bus())
    try:
        url = f"redis+cluster://127.0.0.1:{stranger.port},{nodes.url.partition('://')[2]}"
        async with app_at(url, namespace, SHARDS, enqueue_timeout=5.0) as app, running_worker(app):
            assert await (await task_of(app, "double").enqueue(4)).result(10) == 8
            sync = await asyncio.to_thread(task_of(app, "double").enqueue_sync, 5)
            assert await sync.result(10) == 10
    finally:
        stranger.close()
