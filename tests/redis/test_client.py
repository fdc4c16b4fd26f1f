"""The producer's side on a real server: enqueue, resend, results, cancel, sync, loops, threads, forks."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness import running_worker, wait_until
from tests.rights import look
from tracked_queue import (
    ArgumentError,
    EnqueueUnavailableError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    PayloadTooLargeError,
    State,
    TrackedQueue,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer


@pytest.fixture
def tasks(app: TrackedQueue) -> Any:
    class Tasks:
        pass

    @app.task(name="double", queue="math")
    async def double(number: int, *, plus: int = 0) -> int:
        return number * 2 + plus

    @app.task(name="fail", max_attempts=1)
    async def fail() -> None:
        raise LookupError("nothing there")

    @app.task(name="quick", tracked=False)
    async def quick() -> None:
        return None

    Tasks.double, Tasks.fail, Tasks.quick = double, fail, quick  # type: ignore[attr-defined]
    return Tasks


async def test_enqueue_run_and_result(app: TrackedQueue, tasks: Any) -> None:
    job = await tasks.double.enqueue(4, plus=1)
    assert job.created and await job.status() is State.QUEUED
    async with running_worker(app):
        assert await job.result(timeout=10) == 9
    info = await job.info()
    assert info.state is State.SUCCEEDED and info.queue == "math" and info.result == 9 and info.attempts == 1
    assert await app.job(job.id).result(timeout=1) == 9, "also by id alone"


async def test_a_failure_carries_the_remote_traceback(app: TrackedQueue, tasks: Any) -> None:
    job = await tasks.fail.enqueue()
    async with running_worker(app):
        with pytest.raises(JobFailedError) as found:
            await job.result(timeout=10)
    assert found.value.error_type == "LookupError" and "nothing there" in str(found.value)
    assert 'raise LookupError("nothing there")' in found.value.traceback
    assert "runner.py" not in found.value.traceback, "our own frame is left out"


async def test_the_same_id_adds_nothing(app: TrackedQueue, tasks: Any) -> None:
    first = await tasks.double.options(id="once").enqueue(1)
    second = await tasks.double.options(id="once").enqueue(2)
    assert (first.created, second.created) == (True, False) and second.id == "once"
    async with running_worker(app):
        assert await second.result(timeout=10) == 2
    assert not (await tasks.double.options(id="once").enqueue(3)).created, "also after it has ended"


async def test_enqueue_many_keeps_the_order_and_checks_all_first(app: TrackedQueue, tasks: Any) -> None:
    jobs = await app.enqueue_many([tasks.double.call(n) for n in range(1000)])
    assert len({job.id for job in jobs}) == 1000 and all(job.created for job in jobs)
    again = await app.enqueue_many([tasks.double.options(id=jobs[0].id).call(1), tasks.double.call(2)])
    assert [job.created for job in again] == [False, True], "duplicates are answered one by one"
    (ids,) = await connections_of(app).store.read(("LRANGE", connections_of(app).keys.named("queue", "math"), 0, -1))
    assert [id.decode() for id in reversed(ids)][:1000] == [job.id for job in jobs]
    with pytest.raises(UsageError, match="item 1"):
        await app.enqueue_many([tasks.double.call(1), tasks.double])
    with pytest.raises(ArgumentError):
        await app.enqueue_many([tasks.double.call(n) for n in (1, 2, "x")])
    (length,) = await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("queue", "math")))
    assert length == 1001


async def test_concurrent_enqueues_share_calls(app: TrackedQueue, tasks: Any) -> None:
    await tasks.double.enqueue(0)
    before = (await connections_of(app).store.read(("INFO", "commandstats")))[0]
    await asyncio.gather(*(tasks.double.enqueue(n) for n in range(500)))
    after = (await connections_of(app).store.read(("INFO", "commandstats")))[0]

    def calls(text: bytes) -> int:
        line = next(line for line in text.decode().splitlines() if line.startswith("cmdstat_evalsha:"))
        return int(line.split("calls=")[1].split(",")[0])

    assert calls(after) - calls(before) <= 10


async def test_a_caller_that_gives_up_takes_nobody_along(server: RedisServer, namespace: str) -> None:
    """The first caller sends alone; who comes meanwhile is stored whatever becomes of it, in calls that are shared."""
    async with (
        Proxy(server.port) as proxy,
        TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=10) as producer,
    ):
        await producer.enqueue("x")
        await proxy.down()
        first, *others = [asyncio.ensure_future(producer.enqueue("x", n)) for n in range(50)]
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await proxy.up()
        jobs = await asyncio.gather(*others)
        assert all(job.created for job in jobs)
        assert (await producer.enqueue("x")).created, "the next one that is alone is sent too"
        (length,) = await connections_of(producer).store.read(
            ("LLEN", connections_of(producer).keys.named("queue", "default"))
        )
        assert length in (51, 52), "the one that gave up may have been on its way"


async def test_who_was_left_in_the_queue_is_taken_along_by_the_next(server: RedisServer, namespace: str) -> None:
    async with (
        Proxy(server.port) as proxy,
        TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=10) as producer,
    ):
        await producer.enqueue("x")
        await proxy.down()
        sent = [asyncio.ensure_future(producer.enqueue("x", n)) for n in range(600)]
        await asyncio.sleep(0.05)
        client = connections_of(producer).here().all[0]
        flushes = list(client._flushes)
        for flush in flushes:
            flush.cancel()
        await asyncio.wait(flushes)
        assert client._queue, "more than the flushes had taken"
        await proxy.up()
        await sent[0]
        await producer.enqueue("x")
        await asyncio.wait_for(asyncio.wait(sent), 10)


@pytest.mark.parametrize("callers", [1, 3])
async def test_closing_waits_for_what_is_being_sent(
    server: RedisServer, namespace: str, app: TrackedQueue, callers: int
) -> None:
    async with Proxy(server.port) as proxy:
        producer = TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=10)
        await producer.enqueue("x")
        await proxy.down()
        sent = [asyncio.ensure_future(producer.enqueue("x", n)) for n in range(callers)]
        await asyncio.sleep(0)
        client = connections_of(producer).here().all[0]
        closing = [asyncio.ensure_future(client.close()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in closing), "it is not stored yet"
        await proxy.up()
        await asyncio.wait_for(asyncio.gather(*closing), 10)
        await producer.aclose()
        assert all(job.done() and job.result().created for job in sent)
        (length,) = await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("queue", "default")))
        assert length == 1 + callers


async def test_headers_are_looked_at_when_a_job_is_enqueued(app: TrackedQueue, tasks: Any) -> None:
    headers: dict[str, Any] = {}
    bound = tasks.double.options(headers=headers)
    headers["trace"] = "later"
    seen = []

    @app.middleware
    async def note(job: Any, call_next: Any) -> Any:
        seen.append(dict(job.headers))
        return await call_next()

    job = await bound.enqueue(1)
    async with running_worker(app):
        await job.result(timeout=10)
    assert seen == [{"trace": "later"}]


async def test_a_producer_without_the_code(app: TrackedQueue, tasks: Any, server: RedisServer, namespace: str) -> None:
    async with TrackedQueue(server.url, namespace=namespace) as producer:
        job = await producer.options(queue="math").enqueue("double", 21, plus=0)
        with pytest.raises(ArgumentError, match="plain data"):
            await producer.enqueue("double", {1, 2})
        with pytest.raises(ArgumentError, match="plain data"):
            await producer.enqueue("double", (1, 2))
        async with running_worker(app):
            assert await job.result(timeout=10) == 42


async def test_enqueue_by_name_uses_a_known_signature(app: TrackedQueue, tasks: Any) -> None:
    with pytest.raises(ArgumentError, match="number"):
        await app.enqueue("double", "x")
    job = await app.enqueue("double", 1)
    assert (await job.info()).queue == "math"


async def test_arguments_that_no_longer_fit_are_dead(
    app: TrackedQueue, tasks: Any, server: RedisServer, namespace: str
) -> None:
    """CASE-55: failed at once with a clear reason, without retries; the worker goes on."""
    async with TrackedQueue(server.url, namespace=namespace) as old:
        jobs = [
            await old.options(queue="math").enqueue("double", 1, removed=2),
            await old.options(queue="math").enqueue("double", "text"),
            await old.options(queue="math").enqueue("double"),
        ]
    jobs = [app.job(job.id) for job in jobs]  # the other app is closed
    good = await tasks.double.enqueue(1)
    async with running_worker(app):
        for job, said in zip(jobs, ("removed", "int", "missing"), strict=True):
            with pytest.raises(JobFailedError, match=said) as found:
                await job.result(timeout=10)
            assert found.value.state == "dead"
        assert await good.result(timeout=10) == 2


async def test_a_record_that_does_not_decode_is_dead(app: TrackedQueue, tasks: Any) -> None:
    jobs = [await tasks.double.enqueue(n) for n in range(3)]
    await connections_of(app).store.read(
        ("HSET", connections_of(app).keys.named("job", jobs[0].id), "args", b"\xc1garbage")
    )
    await connections_of(app).store.read(
        ("HSET", connections_of(app).keys.named("job", jobs[1].id), "delivery", "0", "options", b"\xc1garbage")
    )
    async with running_worker(app):
        for job in jobs[:2]:
            with pytest.raises(JobFailedError):
                await job.result(timeout=10)
            assert await job.status() is State.DEAD
        assert await jobs[2].result(timeout=10) == 4


async def test_a_job_of_a_newer_format_is_left_for_a_newer_worker(app: TrackedQueue, tasks: Any) -> None:
    """CASE-55: not failed, not lost."""
    job = await tasks.double.enqueue(1)
    import msgspec

    await connections_of(app).store.read(
        (
            "HSET",
            connections_of(app).keys.named("job", job.id),
            "delivery",
            "0",
            "options",
            msgspec.msgpack.encode({"format": 2, "x": 1}),
        )
    )
    async with running_worker(app):

        async def parked() -> bool:
            return await job.status() is State.PARKED

        await wait_until(parked, what="the job to be parked")


async def test_delay_and_at(app: TrackedQueue, tasks: Any) -> None:
    delayed = await tasks.double.options(delay=0.3).enqueue(1)
    at = await tasks.double.options(at=datetime.now(UTC) + timedelta(seconds=0.3)).enqueue(2)
    past = await tasks.double.options(at=datetime(2001, 1, 1, tzinfo=UTC)).enqueue(3)
    assert await delayed.status() is State.SCHEDULED and await past.status() is State.QUEUED
    async with running_worker(app):
        await past.result(timeout=5)
        await asyncio.gather(delayed.result(timeout=5), at.result(timeout=5))
    assert (await delayed.info()).finished_at is not None


@pytest.mark.parametrize(
    "bad", [{"at": datetime(2030, 1, 1)}, {"delay": float("nan")}, {"delay": 1e12}, {"delay": True}]
)
async def test_times_that_make_no_sense_are_refused(tasks: Any, bad: dict[str, Any]) -> None:
    """CASE-45."""
    with pytest.raises(UsageError):
        tasks.double.options(**bad)


async def test_wait_times_out_and_the_job_goes_on(app: TrackedQueue, tasks: Any) -> None:
    job = await tasks.double.enqueue(1)
    with pytest.raises(TimeoutError, match=job.id):
        await job.result(timeout=0.1)
    assert await job.status() is State.QUEUED


async def test_unknown_and_impossible_ids(app: TrackedQueue) -> None:
    with pytest.raises(JobNotFoundError):
        await app.job("nobody").result(timeout=5)
    with pytest.raises(JobNotFoundError):
        await app.job("nobody").info()
    assert not await app.job("nobody").cancel()
    for bad in ("", "x" * 257, "a\nb", "\x1b[31m"):
        with pytest.raises(UsageError):
            app.job(bad)


@pytest.mark.parametrize("id", ["with spaces in it", "ünïcödé-✓", "x" * 256])
async def test_printable_ids_of_any_kind_work(app: TrackedQueue, tasks: Any, id: str) -> None:
    job = await tasks.double.options(id=id).enqueue(1)
    async with running_worker(app):
        assert await job.result(timeout=10) == 2
    assert (await app.job(id).info()).state is State.SUCCEEDED


async def test_cancel_of_a_waiting_job_ends_its_waiters(app: TrackedQueue, tasks: Any) -> None:
    """CASE-34."""
    job = await tasks.double.enqueue(1)
    waiter = asyncio.ensure_future(job.result(timeout=10))
    await asyncio.sleep(0)
    assert await job.cancel()
    with pytest.raises(JobCancelledError):
        await waiter
    assert not await job.cancel(), "it has ended"
    assert await job.status() is State.CANCELLED


async def test_payload_above_the_limit(server: RedisServer, namespace: str) -> None:
    """CASE-54: a clear error at enqueue, before anything is written."""
    async with TrackedQueue(server.url, namespace=namespace, max_payload=1000) as app:

        @app.task()
        async def take(data: bytes) -> None: ...

        await take.enqueue(b"x" * 900)
        with pytest.raises(PayloadTooLargeError, match="max_payload"):
            await take.enqueue(b"x" * 1100)
        (length,) = await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("queue", "default")))
        assert length == 1


async def test_results_come_by_push_also_over_cut_subscriptions(app: TrackedQueue, tasks: Any) -> None:
    """CASE-57: none is missed, although subscriptions are killed all the while."""
    stop = asyncio.Event()

    async def killer() -> None:
        while not stop.is_set():
            await look(app, "CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.05)

    async def round_trip(n: int) -> None:
        job = await tasks.double.enqueue(n)
        assert await job.result(timeout=20) == 2 * n

    async with running_worker(app):
        killing = asyncio.ensure_future(killer())
        for at in range(0, 600, 100):
            await asyncio.gather(*(round_trip(n) for n in range(at, at + 100)))
        stop.set()
        await killing


async def test_waiting_leaves_nothing_behind(app: TrackedQueue, tasks: Any) -> None:
    async with running_worker(app):
        jobs = [await tasks.double.enqueue(n) for n in range(50)]
        await asyncio.gather(*(job.result(timeout=10) for job in jobs))
        waiter = asyncio.ensure_future((await tasks.double.options(delay=60).enqueue(1)).result())
        await asyncio.sleep(0.05)
        waiter.cancel()
        await asyncio.wait({waiter})
    hub = connections_of(app).here().all[0].results
    assert not hub._waiters and not hub._subscribed


async def test_an_untracked_job_runs_once_and_leaves_no_record(app: TrackedQueue, tasks: Any) -> None:
    job = await tasks.quick.enqueue()
    async with running_worker(app):

        async def gone() -> bool:
            try:
                await job.info()
            except JobNotFoundError:
                return True
            return False

        await wait_until(gone, what="the record to go")
    with pytest.raises(JobNotFoundError):
        await job.result(timeout=1)


# Lost replies and a Redis that is away


async def test_a_lost_reply_stores_one_job(server: RedisServer, app: TrackedQueue, namespace: str) -> None:
    """CASE-19: the enqueue is sent again by itself, and the store knows its id."""
    async with Proxy(server.port) as proxy, TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=5) as producer:
        await producer.enqueue("x", 1)
        proxy.drop_replies = 1
        job = await producer.enqueue("x", 2)
        assert not job.created, "the first send had created it"
        proxy.drop_replies = 1
        await producer.enqueue_many([])
        (length,) = await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("queue", "default")))
        assert length == 2


async def test_an_untracked_enqueue_is_not_sent_again(server: RedisServer, namespace: str) -> None:
    async with Proxy(server.port) as proxy, TrackedQueue(proxy.url, namespace=namespace) as producer:

        @producer.task(tracked=False)
        async def quick() -> None: ...

        await quick.enqueue()
        proxy.drop_replies = 1
        with pytest.raises(EnqueueUnavailableError, match="may have been stored") as found:
            await quick.enqueue()
        assert found.value.may_have_run and len(found.value.job_ids) == 1


async def test_enqueue_with_redis_away_says_it_was_not_stored(namespace: str) -> None:
    async with TrackedQueue("redis://127.0.0.1:1", namespace=namespace, enqueue_timeout=0.3) as producer:
        with pytest.raises(EnqueueUnavailableError, match="was not stored") as found:
            await producer.enqueue("x")
        assert not found.value.may_have_run
    with pytest.raises(EnqueueUnavailableError, match="was not stored"):
        TrackedQueue("redis://127.0.0.1:1", enqueue_timeout=0.3).enqueue_sync("x")


async def test_enqueue_waits_for_a_short_outage(server: RedisServer, namespace: str) -> None:
    async with (
        Proxy(server.port) as proxy,
        TrackedQueue(proxy.url, namespace=namespace, enqueue_timeout=10) as producer,
    ):
        await producer.enqueue("x")
        await proxy.down()
        waiting = asyncio.ensure_future(producer.enqueue("x"))
        await asyncio.sleep(0.2)
        await proxy.up()
        assert (await waiting).created


async def test_a_url_with_its_own_timeout_changes_nothing(server: RedisServer, namespace: str) -> None:
    """CASE-17."""
    async with TrackedQueue(f"{server.url}?socket_timeout=0.01&retry_on_timeout=yes", namespace=namespace) as app:
        await connections_of(app).store.read(("BZPOPMIN", connections_of(app).keys.named("wake", "nothing"), "0.3"))


# Sync, loops, threads, forks (CASE-73)


def test_enqueue_sync_needs_no_loop(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)

    @app.task(name="t")
    async def task(number: int) -> None: ...

    job = task.enqueue_sync(1)
    assert job.created and not task.options(id=job.id).enqueue_sync(1).created
    assert len(app.enqueue_many_sync([task.call(n) for n in range(300)])) == 300
    assert app.options(delay=5).enqueue_sync("elsewhere", 1).created
    with pytest.raises(ArgumentError):
        task.enqueue_sync("x")
    app.close()


def test_two_event_loops_in_succession(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)

    async def work() -> bool:
        async with app:
            return (await app.enqueue("x")).created

    assert asyncio.run(work()) and asyncio.run(work())


def test_threads_with_loops_of_their_own(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)
    created: list[bool] = []

    def work() -> None:
        async def inside() -> None:
            async with app:
                created.extend([(await app.enqueue("x", n)).created for n in range(20)])

        asyncio.run(inside())
        created.append(app.enqueue_sync("x").created)
        app.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert created == [True] * 84


def test_enqueue_sync_after_a_fork(server: RedisServer, namespace: str) -> None:
    """As under gunicorn with preload: parent and child must not read each other's replies."""
    app = TrackedQueue(server.url, namespace=namespace)
    assert app.enqueue_sync("x", "parent").created
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            ok = all(app.enqueue_sync("x", n).created for n in range(50))
            os._exit(0 if ok else 1)
        pids.append(pid)
    assert all(app.enqueue_sync("x", n).created for n in range(50))
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    app.close()


def test_making_an_app_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://nowhere.invalid:1")
    app = TrackedQueue()

    @app.task()
    async def task() -> None: ...

    assert len(app.tasks) == 1


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """CASE-77."""
    app = TrackedQueue("redis://user:s%40crt@127.0.0.1:1/3?password=s%40crt", enqueue_timeout=0.2)
    shown = [repr(app), repr(app.settings), repr(connections_of(app).endpoint())]
    try:
        app.enqueue_sync("x")
    except EnqueueUnavailableError as error:
        shown += [str(error), repr(error)]
    for text in shown:
        assert "s%40crt" not in text and "s@crt" not in text
    assert "user" in shown[0] and "127.0.0.1" in shown[0]


async def test_current_job_outside_of_a_job() -> None:
    with pytest.raises(UsageError, match="outside"):
        current_job()
