"""Redis killed, restarted, frozen, flushed, half-open, full, replaced: workers ride it out by themselves."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import wait_until
from tests.process.test_workers import ended
from tests.process.worker import Notes, Worker
from tracked_queue import EnqueueUnavailableError, Job, State, TrackedQueue
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer
from tracked_queue.reports.instances import read_instances
from tracked_queue.reports.queues import read_overview

Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(120)


async def test_redis_is_killed_and_comes_back(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """CASE-15, CASE-20, CASE-21, CASE-22: one line when it goes, one when it comes; the same process; no job lost."""
    worker = start("--concurrency", "5", HEARTBEAT_TTL="9", HEARTBEAT_INTERVAL="1")
    worker.ready()
    for outage in range(1, 4):
        running = await queue.enqueue("short", 0.7)
        await wait_until(lambda running=running: _active(running), what="the job to run")
        server.kill()
        worker.wait_event("redis.lost", outage)
        await asyncio.sleep(1.0)  # the job ends meanwhile; its outcome waits
        server.start()
        worker.wait_event("redis.restored", outage)
        assert await ended([running]) == [State.SUCCEEDED]
        info = await running.info()
        assert (info.attempts, info.interruptions, info.recoveries) == (1, 0, 0), "it ran once"
        began = time.monotonic()
        await (await queue.enqueue("noop", 1)).result(timeout=10)
        assert time.monotonic() - began < 6
    assert len(worker.events("redis.lost")) == len(worker.events("redis.restored")) == 3
    assert not worker.events("process.died") and len(worker.ready()) == 1


async def _active(job: Job[object]) -> bool:
    return await job.status() is State.ACTIVE


async def test_a_long_outage_is_cheap_and_ends_well(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """CASE-21, CASE-23: longer than the TTL; what runs is cancelled in time and handed back, charged nothing."""
    worker = start("--concurrency", "5")
    worker.ready()
    job = await queue.enqueue("sleep", 30.0)
    notes.wait("start", 1)
    (child,) = worker.children()
    server.kill()
    worker.wait_event("lease.doubted")
    before = _cpu_s(child)
    await asyncio.sleep(4)
    spent = _cpu_s(child) - before
    assert spent < 0.8, f"{spent} s of CPU in 4 s without Redis"
    server.start()
    worker.wait_event("redis.restored")
    notes.wait("start", 2)
    info = await job.info()
    assert (info.attempts, info.recoveries, info.charges, info.interruptions) == (1, 0, 0, 1), "the second run is on"
    await job.cancel()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_redis_is_frozen_for_longer_than_the_ttl(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """CASE-23: three workers; nobody is declared dead, no job runs on two at once, nobody is charged."""
    workers = [start("--concurrency", "1") for _ in range(3)]
    for worker in workers:
        worker.ready()
    jobs = [await queue.enqueue("sleep", 6.0) for _ in range(3)]
    notes.wait("start", 3)
    server.freeze()
    await asyncio.sleep(3.5)
    server.thaw()
    assert set(await ended(jobs, 40)) == {State.SUCCEEDED}
    for job in jobs:
        info = await job.info()
        assert info.attempts == 1 and info.charges == 0 and info.recoveries == 0 and info.interruptions <= 1
    runs = [note[1] for note in notes.all("start")]
    assert all(runs.count(job.id) <= 2 for job in jobs)
    # A job that doesn't end when it is cancelled (this one's cleanup needs Redis) takes its process along; that is no
    # death of its own doing either.
    fates = {event["fate"] for worker in workers for event in worker.events("job.recovered")}
    assert fates <= {"interrupted"}


async def test_flushall_under_a_running_worker(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """CASE-25: it registers anew, its job's end is a warning, and new jobs run."""
    worker = start("--concurrency", "5")
    worker.ready()
    await queue.enqueue("sleep", 2.0)
    notes.wait("start", 1)
    await connections_of(queue).store.read(("FLUSHALL",))
    worker.ready(2)
    jobs = [await queue.enqueue("noop", n) for n in range(5)]
    assert [await job.result(timeout=10) for job in jobs] == list(range(5))
    assert not worker.events("process.died")


async def test_a_half_open_connection_is_given_up(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """CASE-16, CASE-20: what was open stands still; the worker comes back on new connections, and no job is lost."""
    async with Proxy(server.port) as proxy:
        worker = start(
            "--concurrency",
            "5",
            url=proxy.url,
            TRACKED_QUEUE_REPLY_TIMEOUT="2",
            HEARTBEAT_TTL="20",
            HEARTBEAT_INTERVAL="1",
        )
        await asyncio.to_thread(worker.ready)
        job = await queue.enqueue("sleep", 1.0)
        await wait_until(lambda: notes_in(notes, 1), what="the job to start")
        proxy.freeze_open_connections()
        fresh = [await queue.enqueue("noop", n) for n in range(3)]
        began = time.monotonic()
        assert [await one.result(timeout=20) for one in fresh] == [0, 1, 2]
        assert time.monotonic() - began < 15
        await job.result(timeout=20)
        assert (await job.info()).recoveries == 0
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0


def notes_in(notes: Notes, count: int) -> bool:
    return len(notes.all("start")) >= count


async def test_lost_replies_lose_and_double_nothing(start: Start, queue: TrackedQueue, server: RedisServer) -> None:
    """CASE-18, CASE-19: connections are cut all the while, replies with them; every job runs, each is settled once."""
    async with Proxy(server.port) as proxy:
        workers = [
            start("--concurrency", "20", url=proxy.url, HEARTBEAT_TTL="20", HEARTBEAT_INTERVAL="0.5") for _ in range(2)
        ]
        for worker in workers:
            await asyncio.to_thread(worker.ready)
        jobs = []
        for round_ in range(25):
            jobs += await queue.enqueue_many(await _calls(queue, 20))
            proxy.drop_replies = round_ % 4
            await asyncio.sleep(0.05)
            proxy.cut()
        proxy.drop_replies = 0
        assert set(await ended(jobs, 40)) == {State.SUCCEEDED}
        assert {info.attempts + info.recoveries for info in [await job.info() for job in jobs]} == {1}
        await wait_until(lambda: _nothing_owned(queue), 15, "empty processing lists")


async def _calls(queue: TrackedQueue, count: int) -> list[object]:
    from tracked_queue.model.options import JobOptions
    from tracked_queue.model.task import PreparedCall

    options = JobOptions()
    return [
        PreparedCall(producer_of(queue)._named_request("noop", options, (n,), {}), None, options, (n,), {})
        for n in range(count)
    ]


async def _nothing_owned(queue: TrackedQueue) -> bool:
    overview = await read_overview(connections_of(queue).stores)
    return all(item.owned == 0 for item in await read_instances(connections_of(queue).store)) and all(
        item.length == 0 for item in overview.queues
    )


async def test_scripts_are_flushed_all_the_while(start: Start, queue: TrackedQueue) -> None:
    """CASE-22."""
    start("--concurrency", "10").ready()
    stop = asyncio.Event()

    async def flush() -> None:
        while not stop.is_set():
            await connections_of(queue).store.read(("SCRIPT", "FLUSH"))
            await asyncio.sleep(0.02)

    flushing = asyncio.ensure_future(flush())
    jobs = [await queue.enqueue("noop", n) for n in range(100)]
    jobs += await queue.enqueue_many(await _calls(queue, 100))  # type: ignore[arg-type]
    jobs += [await queue.options(delay=0.1).enqueue("noop", n) for n in range(10)]
    doomed = await queue.options(delay=60).enqueue("noop", 1)
    assert await doomed.cancel()
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    await queue.recover()
    stop.set()
    await flushing


async def test_redis_is_away_at_start(start: Start, queue: TrackedQueue, server: RedisServer) -> None:
    """The worker says so once, waits, and goes on by itself."""
    server.kill()
    worker = start()
    worker.wait_event("redis.lost")
    await asyncio.sleep(1)
    server.start()
    worker.ready()
    assert len(worker.events("redis.lost")) == 1
    assert await (await queue.enqueue("noop", 7)).result(timeout=10) == 7


async def test_shutdown_with_redis_away(start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer) -> None:
    """CASE-30: it ends within grace + 3 s, non-zero, and says what is left; after Redis is back another recovers it."""
    worker = start("--concurrency", "2", "--grace", "1", HEARTBEAT_TTL="12", HEARTBEAT_INTERVAL="1")
    worker.ready()
    job = await queue.enqueue("sleep", 60.0)
    notes.wait("start", 1)  # active it is earlier, when the worker may not have read of it yet
    server.freeze()
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    code = await asyncio.to_thread(worker.wait, 20)
    took = time.monotonic() - began
    server.thaw()
    assert code == 1 and took < 1 + 3 + 4, took  # 4 s for a busy machine
    assert worker.events("instance.stopped")[0]["left"] == 1
    start("--concurrency", "2", HEARTBEAT_TTL="12", HEARTBEAT_INTERVAL="1").ready()

    async def again() -> bool:
        info = await job.info()
        return info.state is State.ACTIVE and info.recoveries + info.interruptions == 1

    await wait_until(again, 60, what="another worker to recover it")
    await job.cancel()


@pytest.mark.parametrize(
    "refusal",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-CLUSTERDOWN Hash slot not served\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
    ],
)
async def test_passing_refusals_are_waited_out(server: RedisServer, namespace: str, refusal: bytes) -> None:
    """CASE-26: what Redis says around a restart or failover is "not carried out", with a type of its own, and passes."""
    async with Proxy(server.port) as proxy, TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=0.4) as app:
        await app.enqueue("x")
        proxy.answer = refusal
        with pytest.raises(EnqueueUnavailableError, match="was not stored"):
            await app.enqueue("x")
        waiting = asyncio.ensure_future(app.enqueue("x"))
        await asyncio.sleep(0.1)
        proxy.answer = b""
        assert (await waiting).created


@pytest.mark.parametrize(
    "prepare, options, said",
    [
        (("CONFIG", "SET", "requirepass", "secret"), (), "user, the password"),
    ],
)
async def test_a_server_that_can_not_be_used(
    start: Start,
    queue: TrackedQueue,
    server: RedisServer,
    prepare: tuple[str, ...],
    options: tuple[str, ...],
    said: str,
) -> None:
    """CASE-67: one line, exit 2."""
    await connections_of(queue).store.read(prepare)
    worker = start(*options)
    assert await asyncio.to_thread(worker.wait) == 2
    lines = [line for line in worker.log.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and said in lines[0], lines


async def test_a_wrong_password_is_no_outage(start: Start, queue: TrackedQueue, server: RedisServer) -> None:
    """CASE-67, CASE-77: one line, exit 2, and the password is not in it."""
    await connections_of(queue).store.read(("CONFIG", "SET", "requirepass", "secret"))
    for user in ("", "nobody"):
        worker = start(url=server.url.replace("//", f"//{user}:WRONG@"))
        assert await asyncio.to_thread(worker.wait) == 2
        lines = [line for line in worker.log.read_text().splitlines() if not line.startswith("{")]
        assert len(lines) == 1 and "password" in lines[0] and "WRONG" not in worker.log.read_text(), lines


async def test_an_eviction_policy_is_warned_of(start: Start, queue: TrackedQueue) -> None:
    """CASE-24."""
    await connections_of(queue).store.read(("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))
    worker = start()
    (event,) = worker.wait_event("redis.unsafe")
    assert "allkeys-lru" in event["problem"] and "noeviction" in event["problem"]
    worker.ready()


async def test_a_user_without_admin_rights(
    start: Start, queue: TrackedQueue, notes: Notes, server: RedisServer
) -> None:
    """A narrow ACL: no INFO, no CLIENT UNBLOCK, no channels; jobs run, results arrive, SIGTERM ends in order."""
    await connections_of(queue).store.read(
        ("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-@admin", "-@dangerous", "resetchannels")
    )
    url = server.url.replace("//", "//narrow:pw@")
    worker = start("--concurrency", "2", "--grace", "5", url=url)
    worker.ready()
    async with TrackedQueue(url, namespace=queue.settings.namespace) as narrow:
        assert await (await narrow.enqueue("noop", 5)).result(timeout=10) == 5
    job = await queue.enqueue("sleep", 1.0)
    notes.wait("start", 1)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert await job.status() is State.SUCCEEDED
