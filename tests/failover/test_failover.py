"""A primary with a replica: what an enqueue may wait for, a failover behind one name, and one that Sentinels announce."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import redis
from tests.failover.conftest import Sentinel
from tests.harness import running_worker, wait_until
from tracked_queue import NotDurableError, SettingsError, StoreRefusedError, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer
from tracked_queue.settings import resolve
from tracked_queue.transport.endpoint import Endpoint
from tracked_queue.transport.sentinel import parse_sentinel_url

pytestmark = pytest.mark.timeout(60)


def app_at(url: str, **settings: object) -> TrackedQueue:
    made = TrackedQueue(
        url, namespace="f", heartbeat_interval=0.2, heartbeat_ttl=3.0, recovery_interval=0.3, block=1.0,
        enqueue_timeout=15.0, durability_timeout=1.0, **settings,
    )  # fmt: skip

    @made.task(name="double")
    async def double(n: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * n

    return made


# durability


async def test_an_enqueue_waits_for_the_replica_and_says_when_it_does_not_confirm(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, replica = pair
    async with app_at(primary.url, durability="replica") as app:
        double = app.tasks.get("double")
        assert double is not None
        job = await double.enqueue(1)
        assert job.durability == "replica"
        with redis.Redis.from_url(replica.url) as client:
            assert client.exists(connections_of(app).keys.named("job", job.id)), (
                "it is there before the enqueue returns"
            )
        assert (await double.options(durability="memory").enqueue(2)).durability == "memory"
        assert double.enqueue_sync(3).durability == "replica"
        many = await app.enqueue_many([double.call(n) for n in range(300)])
        assert {one.durability for one in many} == {"replica"}
        replica.freeze()
        try:
            with pytest.raises(NotDurableError, match="stored, but not yet safe: no replica") as found:
                await double.options(id="unsafe").enqueue(4)
            assert found.value.job_ids == ("unsafe",)
            assert (await app.job("unsafe").info()).task == "double", "it is stored"
            # Sent again on whatever connection, it is asked for anew and never taken for safe.
            for _ in range(2):
                with pytest.raises(NotDurableError):
                    await double.options(id="unsafe").enqueue(4)
            with pytest.raises(NotDurableError):
                double.options(id="unsafe").enqueue_sync(4)
            async with app_at(primary.url, durability="replica") as fresh:  # its connections have written nothing yet
                with pytest.raises(NotDurableError):
                    await fresh.tasks.get("double").options(id="unsafe").enqueue(4)  # type: ignore[union-attr]
            with pytest.raises(NotDurableError) as several:
                await app.enqueue_many([double.call(n) for n in range(300)])
            assert len(several.value.job_ids) == 300
        finally:
            replica.thaw()
        again = await double.options(id="unsafe").enqueue(4)
        assert not again.created and again.durability == "replica"


async def test_fsync_needs_a_server_that_can_wait_for_it(
    pair: tuple[RedisServer, RedisServer], server: RedisServer
) -> None:
    async with app_at(pair[0].url, durability="fsync") as app:
        double = app.tasks.get("double")
        assert double is not None
        with redis.Redis.from_url(pair[0].url) as client:
            version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
        if version >= (7, 2):
            assert (await double.enqueue(1)).durability == "fsync"
            async with app_at(server.url, durability="fsync") as other:
                with pytest.raises(StoreRefusedError, match="append-only"):
                    await other.enqueue("double", 1)
        else:
            with pytest.raises(StoreRefusedError, match=r"7\.2"):
                await double.enqueue(1)


# a failover behind one name


async def test_a_failover_behind_one_name_is_ridden_out(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    async with Proxy(primary.port) as proxy, app_at(proxy.url) as app:
        double = app.tasks.get("double")
        assert double is not None
        async with running_worker(app):
            jobs = [await double.options(durability="replica").enqueue(n) for n in range(20)]
            with redis.Redis.from_url(replica.url) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            with redis.Redis.from_url(primary.url) as client:
                client.execute_command("REPLICAOF", "127.0.0.1", replica.port)
            # The old one is a replica now, and open connections lead to it: READONLY, until somebody connects anew.
            proxy.target = replica.port
            jobs += [await double.enqueue(n) for n in range(20, 40)]
            assert [await job.result(30) for job in jobs] == [2 * n for n in range(40)]


async def test_a_worker_that_starts_at_a_replica_waits_for_its_promotion(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    async with app_at(primary.url) as before:
        job = await before.tasks.get("double").options(durability="replica").enqueue(4)  # type: ignore[union-attr]
    async with app_at(replica.url) as app:
        worker = asyncio.ensure_future(app.run_worker(handle_signals=False))
        with redis.Redis.from_url(replica.url) as client:
            await wait_until(
                lambda: client.info("commandstats").get("cmdstat_info", {}).get("calls", 0) > 3, what="it to ask"
            )
            assert not worker.done()
            client.execute_command("REPLICAOF", "NO", "ONE")
        assert await app.job(job.id).result(20) == 8
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


# Sentinels


async def test_workers_and_producers_follow_the_sentinels(
    pair: tuple[RedisServer, RedisServer], sentinel: Sentinel
) -> None:
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main/0"
    async with app_at(url) as app:
        double = app.tasks.get("double")
        assert double is not None
        async with running_worker(app):
            jobs = [await double.options(durability="replica").enqueue(n) for n in range(20)]
            assert double.enqueue_sync(1).created
            killed = time.monotonic()
            pair[0].kill()
            jobs += [await double.enqueue(n) for n in range(20, 40)]
            assert [await job.result(30) for job in jobs] == [2 * n for n in range(40)]
            assert time.monotonic() - killed < 30


def test_sentinel_urls() -> None:
    sentinels, server = parse_sentinel_url(
        "redis+sentinel://user:p%40ss@one,two:5,[::1]:7/main/3?sentinel_password=x&ssl_check_hostname=no", 1.0
    )
    assert sentinels.hosts == [("one", 26379), ("two", 5), ("::1", 7)] and sentinels.service == "main"
    assert server == "redis://user:p%40ss@primary.invalid/3?ssl_check_hostname=no"
    for bad in ("one", "one/", "one:x/main", "/main", "one/main/x", "one/main?sentinel_port=1"):
        with pytest.raises(SettingsError, match="redis_url"):
            parse_sentinel_url(f"redis+sentinel://{bad}", 1.0)
    shown = Endpoint(
        resolve({"redis_url": "redis+sentinel://u:secret@h/main?sentinel_password=hidden"}, environ={})
    ).shown
    assert "secret" not in shown and "hidden" not in shown


async def test_a_start_that_met_the_replica_follows_the_name_to_the_primary(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    """As behind a service whose address changes hands; the connection that was answered by the replica is not kept."""
    primary, replica = pair
    async with Proxy(replica.port) as name, app_at(primary.url) as producer, app_at(name.url) as app:
        job = await producer.tasks.get("double").enqueue(4)  # type: ignore[union-attr]
        worker = asyncio.ensure_future(app.run_worker(handle_signals=False))
        try:
            await wait_until(lambda: name.connections > 0, what="the worker to meet the replica")
            name.target = primary.port
            assert await job.result(20) == 8
        finally:
            worker.cancel()
            await asyncio.wait([worker])
