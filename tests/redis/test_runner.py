"""The wall around user code, timeouts, cancellation, buffering, in a worker of this very loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from tests.harness import running_worker, wait_until
from tests.rights import look
from tracked_queue import Exponential, JobFailedError, Retry, State, TrackedQueue, current_job
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.task import Task
from tracked_queue.protocol.transitions import Beat, Fetched, FetchedJob, fetch, pause, register, resume
from tracked_queue.reports.instances import read_instances
from tracked_queue.worker import recovery, term
from tracked_queue.worker.instance import Instance
from tracked_queue.worker.late_limits import Binder
from tracked_queue.worker.runner import Pools, Runner
from tracked_queue.worker.slots import Slots
from tracked_queue.worker.watchdog import Watchdog

QUICKLY = Exponential(base=0.01, cap=0.02)


class OwnBase(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OwnBase("no text")


def raiser(error: BaseException) -> Callable[[], Any]:
    async def task() -> None:
        raise error

    return task


ERRORS: list[BaseException] = [
    ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), OwnBase("x"),
    StopIteration(), StopAsyncIteration(), RecursionError(), BaseExceptionGroup("g", [OwnBase()]), Unprintable(),
]  # fmt: skip


async def test_whatever_a_job_raises_is_that_jobs_outcome(app: TrackedQueue) -> None:
    """CASE-06, CASE-33: the worker, the job beside it and its later jobs go on."""
    tasks = [app.task(name=f"raise{n}", max_attempts=1)(raiser(error)) for n, error in enumerate(ERRORS)]

    @app.task(name="good")
    async def good(n: int) -> int:
        await asyncio.sleep(0.05)
        return n

    async with running_worker(app):
        beside = [await good.enqueue(n) for n in range(5)]
        jobs = [await task.enqueue() for task in tasks]
        for job, error in zip(jobs, ERRORS, strict=True):
            with pytest.raises(JobFailedError) as found:
                await job.result(timeout=10)
            assert found.value.state == "dead"
            kind = type(error).__name__ if not isinstance(error, StopIteration) else "RuntimeError"
            assert kind in found.value.error_type or kind in found.value.traceback
        assert [await job.result(timeout=10) for job in beside] == list(range(5))


@dataclass
class Angry:
    value: int

    def __post_init__(self) -> None:
        if self.value == 13:
            raise OwnBase("not this one")

    def __eq__(self, other: object) -> bool:
        raise OwnBase("no comparison")


async def test_code_of_types_is_behind_the_wall_too(app: TrackedQueue, server: RedisServer, namespace: str) -> None:
    @app.task(name="take")
    async def take(value: Angry) -> None: ...

    @app.task(name="give")
    async def give() -> Angry:
        return Angry(1)

    @app.task(name="good")
    async def good() -> int:
        return 1

    async with TrackedQueue(server.url, namespace=namespace) as other:
        bad = app.job((await other.enqueue("take", {"value": 13})).id)
    result = await give.enqueue()
    async with running_worker(app, concurrency=1):
        for job in (bad, result):
            with pytest.raises(JobFailedError):
                await job.result(timeout=10)
        assert await (await good.enqueue()).result(timeout=10) == 1


@pytest.mark.parametrize("make", [threading.Lock, object, lambda: asyncio.sleep(0)])
async def test_a_result_that_can_not_be_stored_fails_once(app: TrackedQueue, make: Callable[[], Any]) -> None:
    """CASE-53: terminal, one execution, a clear reason; not retried for ever."""
    runs = 0

    @app.task()
    async def task() -> Any:
        nonlocal runs
        runs += 1
        value = make()
        if asyncio.iscoroutine(value):
            value.close()
        return value

    job = await task.enqueue()
    async with running_worker(app):
        with pytest.raises(JobFailedError, match="result not serialisable") as found:
            await job.result(timeout=10)
    assert found.value.state == "failed" and runs == 1


async def test_a_result_above_the_limit_fails(server: RedisServer, namespace: str) -> None:
    async with TrackedQueue(server.url, namespace=namespace, max_result=100, heartbeat_interval=0.5, block=1.0) as app:

        @app.task()
        async def task() -> bytes:
            return b"x" * 200

        job = await task.enqueue()
        async with running_worker(app):
            with pytest.raises(JobFailedError, match="max_result"):
                await job.result(timeout=10)


async def test_timeouts_follow_the_retry_policy(app: TrackedQueue) -> None:
    """CASE-31: a time-out spends an attempt; `finally` runs."""
    cleaned = 0

    @app.task(timeout=0.05, max_attempts=2, retry=QUICKLY)
    async def slow() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(5)
        finally:
            cleaned += 1

    job = await slow.enqueue()
    async with running_worker(app):
        with pytest.raises(JobFailedError, match="timeout of 0.05 s") as found:
            await job.result(timeout=10)
    assert found.value.error_type == "TimeoutError" and cleaned == 2
    assert (await job.info()).attempts == 2


async def test_one_timer_serves_many_timeouts(app: TrackedQueue) -> None:
    @app.task(max_attempts=1)
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    jobs = [await sleep.options(timeout=0.1 + n / 50).enqueue(5) for n in range(10)]
    jobs += [await sleep.options(timeout=5).enqueue(0.01) for _ in range(10)]
    async with running_worker(app):
        for job in jobs[:10]:
            with pytest.raises(JobFailedError, match="timeout"):
                await job.result(timeout=10)
        for job in jobs[10:]:
            await job.result(timeout=10)


async def test_retry_after_on_purpose(app: TrackedQueue) -> None:
    seen: list[tuple[int, bool]] = []

    @app.task(max_attempts=3)
    async def again() -> str:
        seen.append((current_job().attempt, current_job().last_attempt))
        if len(seen) < 3:
            raise Retry(after=0.01)
        return "done"

    job = await again.enqueue()
    async with running_worker(app):
        assert await job.result(timeout=10) == "done"
    assert seen == [(1, False), (2, False), (3, True)]


async def test_each_run_has_a_context_of_its_own(app: TrackedQueue) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @app.task()
    async def task() -> int:
        before = variable.get()
        variable.set(before + 1)
        return before

    async with running_worker(app, concurrency=1):
        assert [await (await task.enqueue()).result(timeout=10) for _ in range(5)] == [0] * 5


async def test_a_job_knows_itself(app: TrackedQueue) -> None:
    @app.task(queue="q", max_attempts=7)
    async def task() -> list[Any]:
        me = current_job()
        return [me.id, me.task, me.queue, me.attempt, me.max_attempts, me.interruptions, me.recoveries, me.fence > 0]

    async with running_worker(app):
        job = await task.enqueue()
        assert await job.result(timeout=10) == [job.id, task.name, "q", 1, 7, 0, 0, True]


async def test_a_job_that_comes_back_while_its_former_run_ignores_cancellation(app: TrackedQueue) -> None:
    """CASE-32: both deliveries are told apart; the second one can still be cancelled."""
    runs: list[int] = []
    let_go = asyncio.Event()

    @app.task(timeout=0.05, max_attempts=2, retry=QUICKLY)
    async def stubborn() -> None:
        runs.append(current_job().attempt)
        if len(runs) > 1:
            await asyncio.sleep(60)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    job = await stubborn.options(timeout=0.1).enqueue()
    async with running_worker(app, concurrency=4):
        with pytest.raises(JobFailedError, match="attempts exhausted") as found:
            await job.result(timeout=15)
        assert runs == [1, 2] and found.value.state == "dead"
        let_go.set()


async def test_buffered_long_jobs_go_to_an_idle_worker(app: TrackedQueue, server: RedisServer, namespace: str) -> None:
    """CASE-63: nobody hoards what another one has a place for."""

    @app.task()
    async def half_second() -> str:
        await asyncio.sleep(0.5)
        return current_job().lease

    async with running_worker(app, concurrency=2), running_worker(app, concurrency=2):
        await wait_until(lambda: _instances(app, 2), what="both workers")
        jobs = [await half_second.enqueue() for _ in range(12)]
        leases = [await job.result(timeout=20) for job in jobs]
    assert len(set(leases)) == 2 and min(leases.count(lease) for lease in set(leases)) >= 4


async def test_the_buffer_is_refilled_while_every_slot_is_taken(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker of short jobs waits for each fetch with nothing to do."""
    gate = asyncio.Event()

    @app.task()
    async def waits() -> None:
        await gate.wait()

    async def nobody_asks(call: object) -> None:
        raise AssertionError(call)

    binder, slots, pools = (
        Binder(app.tasks, producer_of(app).definitions.queue_limits, connections_of(app).shards),
        Slots(4),
        Pools(app.settings, producer_of(app).definitions.hooks),
    )
    runner = Runner(
        app.tasks, app.settings, "w", lambda _: None, producer_of(app).definitions.hooks, None, nobody_asks, binder, slots, pools,
        None, connections_of(app).cipher,
    )  # fmt: skip
    monkeypatch.setattr(runner.appetite, "_buffer_target", lambda _: 8)

    def room() -> tuple[int, int]:
        return runner.appetite.room(asyncio.get_running_loop().time())

    def brought(count: int) -> list[FetchedJob]:
        return [FetchedJob(b"%d" % n, b"1", b"0", b"default", 0, waits.name.encode()) for n in range(count)]

    assert room() == (4, 8)
    runner.take(brought(7))
    assert len(runner.buffer) == 3 and room() == (0, 5)
    runner.take(brought(2))
    assert room() == (0, 0), "in halves: one fetch for many"
    gate.set()
    await wait_until(lambda: runner.ran == 9, what="all of them")
    assert room() == (4, 8)
    gate.clear()
    job = FetchedJob(b"x", b"7", b"1", b"default", 0, waits.name.encode())
    runner.take([job, *brought(1)])
    for _ in range(2):  # the first beat got no answer
        assert [(job_id, delivery) for job_id, delivery, _ in runner.starts()] == [(b"x", b"7")]
    runner.starts_answered()
    assert runner.starts() == [], "once is enough"
    gate.set()
    await wait_until(lambda: not runner.running, what="the end")
    runner.close()
    await pools.close()


async def _instances(app: TrackedQueue, count: int) -> bool:
    return len(await read_instances(connections_of(app).store)) == count


def _low_and_high(app: TrackedQueue) -> tuple[Task[[], None], Task[[], None], list[str]]:
    """A task in each of two queues, and the order in which their jobs ran."""
    order: list[str] = []

    @app.task(queue="low")
    async def low() -> None:
        order.append("low")

    @app.task(queue="high")
    async def high() -> None:
        order.append("high")

    return low, high, order


async def test_what_may_not_wait_here_is_not_overtaken_by_a_backlog(app: TrackedQueue) -> None:
    """A job that must start at once needs a free slot, which a busy worker with jobs at hand never has by itself."""
    low, high, order = _low_and_high(app)
    jobs = await app.enqueue_many([low.call() for _ in range(6000)])
    async with running_worker(app, concurrency=20, queues=["high", "low"]):
        await wait_until(lambda: len(order) > 1000, what="a busy worker")
        await connections_of(app).store.run(pause("queue:high"))
        handed_back = await high.enqueue()
        # As a recovery leaves it.
        await connections_of(app).store.read(
            ("HSET", connections_of(app).keys.named("job", handed_back.id), "buffered", "never", "delivery", "0")
        )
        await connections_of(app).store.run(resume("queue:high"))
        await jobs[-1].result(timeout=30)
        await handed_back.result(timeout=30)
    assert order.index("high") < 5000


async def test_first_in_first_out_with_one_slot(app: TrackedQueue) -> None:
    """CASE-64."""
    order: list[int] = []

    @app.task()
    async def note(n: int) -> None:
        order.append(n)

    jobs = await app.enqueue_many([note.call(n) for n in range(300)])
    async with running_worker(app, concurrency=1):
        await jobs[-1].result(timeout=20)
    assert order == list(range(300))


async def test_strict_priority_between_queues(app: TrackedQueue) -> None:
    low, high, order = _low_and_high(app)
    jobs = [await low.enqueue() for _ in range(5)] + [await high.enqueue() for _ in range(5)]
    async with running_worker(app, concurrency=1, queues=["high", "low"]):
        for job in jobs:
            await job.result(timeout=10)
    assert order == ["high"] * 5 + ["low"] * 5


@pytest.mark.parametrize("how", ["cancel", "scope"])
async def test_a_worker_that_is_cancelled_hands_its_jobs_back(app: TrackedQueue, how: str) -> None:
    """Whoever runs it in a task of their own stops it by cancelling; also with anyio, which cancels again and again."""
    started = asyncio.Event()

    @app.task()
    async def long() -> None:
        started.set()
        await asyncio.sleep(60)

    job = await long.enqueue()
    connections_of(app).settings = type(app.settings)(**{**_values(app), "grace": 0.1})
    if how == "cancel":
        task = asyncio.ensure_future(app.run_worker(handle_signals=False))
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: app.run_worker(handle_signals=False))
                await asyncio.wait_for(started.wait(), 10)
                scope.cancel()
    info = await job.info()
    assert info.state is State.QUEUED and info.interruptions == 1 and info.attempts == 0
    assert await read_instances(connections_of(app).store) == []


def _values(app: TrackedQueue) -> dict[str, Any]:
    from tracked_queue.settings import setting_names

    return {name: getattr(app.settings, name) for name in setting_names()}


async def test_a_revoked_instance_cancels_its_jobs_and_registers_anew(app: TrackedQueue) -> None:
    """CASE-09, CASE-10: its cleanup runs, nothing of the job changes because of it, and it works on under a new lease."""
    from tracked_queue.protocol import transitions as t

    leases: list[str] = []
    cleaned = asyncio.Event()

    @app.task()
    async def long() -> str:
        leases.append(current_job().lease)
        if len(leases) == 1:
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.set()
        return current_job().lease

    job = await long.enqueue()
    with capture_logs() as logs:
        async with running_worker(app):
            await wait_until(lambda: leases, what="the job to start")
            await connections_of(app).store.run(t.release(leases[0], t.End.DIED))
            await asyncio.wait_for(cleaned.wait(), 10)
            assert await job.result(timeout=10) == leases[1]
    assert leases[0] != leases[1]
    assert [entry["event"] for entry in logs].count("lease.lost") == 1
    assert {"job.fenced"} <= {entry["event"] for entry in logs}
    assert (await job.info()).recoveries == 1


async def test_a_stray_in_the_processing_list_is_handed_back(app: TrackedQueue) -> None:
    """CASE-18: a live instance owns a job that it knows nothing of; the heartbeat must not keep it there for ever."""
    from tracked_queue.protocol import transitions as t

    @app.task()
    async def task() -> int:
        return 5

    with capture_logs() as logs:
        async with running_worker(app):
            await wait_until(lambda: _instances(app, 1), what="the worker")
            (instance,) = await read_instances(connections_of(app).store)
            job = await task.options(delay=60).enqueue()
            # As if a fetch had taken it and its reply had been lost for good: a number far ahead is used up.
            await connections_of(app).store.read(("ZREM", connections_of(app).keys.single("scheduled"), job.id))
            await connections_of(app).store.read(
                (
                    "HSET",
                    connections_of(app).keys.named("job", job.id),
                    "state",
                    "active",
                    "delivery",
                    "7",
                    "lease",
                    instance.lease,
                )
            )
            await connections_of(app).store.read(
                ("SADD", connections_of(app).keys.named("processing", instance.lease), job.id)
            )
            assert await job.result(timeout=20) == 5
    assert any(entry["event"] == "job.stray" for entry in logs)
    assert t is not None


async def test_arguments_and_results_are_not_logged(app: TrackedQueue) -> None:
    """CASE-78."""

    @app.task(max_attempts=2, retry=QUICKLY)
    async def task(token: str) -> str:
        if current_job().attempt == 1:
            raise ValueError("first")
        return "RESULT-SECRET"

    with capture_logs() as logs:
        async with running_worker(app):
            job = await task.enqueue("ARGUMENT-SECRET")
            await job.result(timeout=10)
    assert logs and "SECRET" not in repr(logs)


async def test_names_in_records_are_never_looked_up(app: TrackedQueue) -> None:
    """CASE-74: only registered tasks run; anything else waits, parked."""

    @app.task()
    async def task() -> None: ...

    jobs = [await app.enqueue(name) for name in ("os.system", "builtins:eval", "__import__", "../x")]
    async with running_worker(app):

        async def parked() -> bool:
            return {await job.status() for job in jobs} == {State.PARKED}

        await wait_until(parked, what="all of them to be parked")


async def test_queues_and_tasks_are_checked_before_anything_starts(app: TrackedQueue) -> None:
    from tracked_queue import UsageError

    with pytest.raises(UsageError, match="no tasks"):
        await app.run_worker()

    @app.task(queue="here")
    async def task() -> None: ...

    with pytest.raises(UsageError, match="at least one"):
        await app.run_worker(queues=[])
    with pytest.raises(UsageError, match="queues='here'"):
        await app.run_worker(queues="here")
    assert Instance is not None


async def test_ten_thousand_orphans_and_eight_recoverers(server: RedisServer, namespace: str) -> None:
    """CASE-05: eight instances recover one dead list at once; each job moves exactly once, and all of them run."""
    from tracked_queue.protocol import transitions as t

    async with TrackedQueue(server.url, namespace=namespace, max_connections=16) as app:

        @app.task()
        async def task(n: int) -> None: ...

        jobs = await app.enqueue_many([task.call(n) for n in range(10_000)])
        await connections_of(app).store.run(t.register("dead", 30, 5, {}))
        for number in range(1, 41):
            await connections_of(app).store.run(t.fetch("dead", number, 250, 0, ["default"]))
        await connections_of(app).store.run(t.release("dead", t.End.INTERRUPTED))
        apps = [TrackedQueue(server.url, namespace=namespace) for _ in range(8)]
        moved = [one for some in await asyncio.gather(*(each.recover() for each in apps)) for one in some]
        for each in apps:
            await each.aclose()
        assert sorted(one.id for one in moved) == sorted(job.id for job in jobs)
        queued, instances = await connections_of(app).store.read(
            ("LRANGE", connections_of(app).keys.named("queue", "default"), 0, -1),
            ("ZCARD", connections_of(app).keys.single("instances")),
        )
        assert sorted(id.decode() for id in queued) == sorted(job.id for job in jobs) and instances == 0


async def test_what_the_watchdog_hears_is_done(app: TrackedQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread brings the loop news outside of any task, where anyio starts nothing once sniffio is installed."""
    watchdogs, done = list[Any](), list[str]()

    class Seen(Watchdog):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            watchdogs.append(self)

    def noted(name: str) -> Callable[..., Any]:
        make = getattr(term, name)

        def call(*args: Any) -> Any:
            done.append(name)
            return make(*args)

        return call

    monkeypatch.setattr(term, "Watchdog", Seen)
    for name in ("tend", "unpark"):
        monkeypatch.setattr(term, name, noted(name))

    @app.task(name="known")
    async def known() -> None: ...

    async with running_worker(app):
        await (await known.enqueue()).result(10)
        for _ in range(2):  # and the next time, too
            done.clear()
            heard = Beat(quiet=False, run_out=False, cancels=(), parked=("known", "unknown"), tend=True)
            loop, (watchdog,) = asyncio.get_running_loop(), watchdogs
            thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(watchdog._news, heard))  # noqa: B023
            thread.start()
            await wait_until(lambda: set(done) == {"tend", "unpark"})
            thread.join()


async def test_idle_workers_wake_for_each_job_and_share_a_burst(app: TrackedQueue) -> None:
    """CASE-79: jobs at random moments, delayed ones beside them, blocked clients killed at the moment of the push."""
    import random

    rng = random.Random(7)

    @app.task()
    async def where() -> str:
        return current_job().lease

    @app.task()
    async def nap() -> str:
        await asyncio.sleep(0.2)
        return current_job().lease

    waits = []
    async with running_worker(app), running_worker(app), running_worker(app):
        await wait_until(lambda: _instances(app, 3), what="three workers")
        for round_ in range(120):
            await asyncio.sleep(rng.random() * 0.03)
            if round_ % 20 == 19:
                clients = (await look(app, "CLIENT", "LIST")).decode().splitlines()
                blocked = [line for line in clients if "cmd=bzpopmin" in line]
                if blocked:
                    await look(app, "CLIENT", "KILL", "ID", blocked[0].split()[0].removeprefix("id="))
            jobs = (
                [await where.enqueue()]
                if round_ % 3
                else [await where.options(delay=0.05).enqueue(), await where.enqueue()]
            )
            began = time.monotonic()
            for job in jobs:
                await job.result(timeout=10)
            if round_ % 20 != 19:
                waits.append(time.monotonic() - began)
        waits.sort()
        assert waits[len(waits) // 2] < 0.5 and waits[-1] < app.settings.block + 2, "a lost signal costs one block time"
        leases = {await job.result(timeout=10) for job in await app.enqueue_many([nap.call() for _ in range(250)])}
        assert len(leases) == 3, "a burst is shared"


async def test_nothing_is_left_of_jobs_and_instances(server: RedisServer, namespace: str) -> None:
    """CASE-56, CASE-58: after all ends and expiries no key of a job or an instance remains."""
    async with TrackedQueue(
        server.url,
        namespace=namespace,
        result_ttl=0.2,
        resend_window=0.3,
        block=1.0,
        heartbeat_interval=0.3,
        heartbeat_ttl=2,
    ) as app:

        @app.task(max_attempts=1)
        async def fails() -> None:
            raise ValueError

        @app.task(max_attempts=3, retry=QUICKLY)
        async def third() -> int:
            if not current_job().last_attempt:
                raise Retry(after=0)
            return 1

        @app.task()
        async def value() -> int:
            return 1

        @app.task(tracked=False)
        async def untracked() -> None: ...

        calls = [task.call() for task in (fails, third, value, untracked) for _ in range(50)]
        jobs = await app.enqueue_many(calls)
        cancelled = [await value.options(delay=60).enqueue() for _ in range(10)] + [
            await value.enqueue() for _ in range(10)
        ]
        for job in cancelled:
            await job.cancel()
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        await connections_of(app).store.read(
            *(("DEL", connections_of(app).keys.named("job", job.id)) for job in jobs[:50])
        )  # the dead stay for a person
        await connections_of(app).store.read(("DEL", connections_of(app).keys.single("dead")))

        async def left() -> list[str]:
            keys = await look(app, "KEYS", connections_of(app).keys.tag.replace("{", "[{]") + ":*")
            kinds = {key.decode().split(":")[1] for key in keys}
            return sorted(
                kinds
                - {
                    "queues",
                    "protocol",
                    "shards",
                    "contact",
                    "stats",
                    "wake",
                    "wake_timer",
                    "timer",
                    "hold",
                    "ends",
                    "recoveries",
                    "times",
                }
            )

        async def clean() -> bool:
            return await left() == []

        await wait_until(clean, 10, what="the keys to go")


async def test_a_lost_node_with_ten_thousand_running_jobs_harms_none(app: TrackedQueue) -> None:
    """Its instances had them all started; they go on at full concurrency at once, and nobody is charged or suspected."""
    running, most = 0, 0
    gate = asyncio.Event()

    @app.task(name="minute")
    async def minute() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    jobs = await app.enqueue_many([minute.call() for _ in range(10_000)])
    store, keys = connections_of(app).store, connections_of(app).keys
    leases = [f"node.{n}" for n in range(5)]
    for lease in leases:
        await store.run(register(lease, 30, 5, {"label": "node"}))
        for number in range(1, 9):
            taken = await store.run(fetch(lease, number, 250, 0, ["default"]))
            assert isinstance(taken, Fetched) and len(taken.jobs) == 250
    for lease in leases:  # the machine is gone: every lease is past its deadline
        await store.read(("ZADD", keys.single("instances"), 1, lease))
    worker = asyncio.ensure_future(app.run_worker(concurrency=1000, handle_signals=False))
    try:
        await wait_until(lambda: running == 1000, 30, "all slots to be taken")
        gate.set()
        states = []
        for job in jobs:
            states.append(await job.result(60))
    finally:
        worker.cancel()
        await asyncio.wait([worker])
    assert most == 1000
    found = await store.read(
        *(("HMGET", keys.named("job", job.id), "state", "charges", "suspicion", "attempts") for job in jobs)
    )
    # On a slow machine nobody had beaten for a while, and it looks like an outage: an interruption then, and no suspicion.
    assert {(state, charges, attempts) for state, charges, _, attempts in found} == {(b"succeeded", None, None)}
    assert {suspicion for _, _, suspicion, _ in found} <= {b"1", None}


async def test_a_worker_sees_to_what_nobody_fetches(app: TrackedQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled jobs of a queue that nobody serves leave it, so that they expire; dead ones beyond the limit go."""
    monkeypatch.setattr(recovery, "DROP_EVERY_S", 0.05)
    monkeypatch.setattr(recovery, "TRIM_EVERY_S", 0.05)
    connections_of(app).settings = type(app.settings)(
        **{**_values(app), "recovery_interval": 0.05, "dead_max_count": 1}
    )

    @app.task(name="t")
    async def t() -> None: ...

    @app.task(name="fails", max_attempts=1)
    async def fails() -> None:
        raise ValueError

    async def is_size(verb: str, key: str, size: int) -> bool:
        return (await connections_of(app).store.read((verb, key)))[0] == size

    gone = [await app.options(queue="gone").enqueue("other") for _ in range(3)]
    assert [await job.cancel() for job in gone] == [True] * 3
    await app.enqueue_many([fails.call() for _ in range(3)])
    assert await is_size("LLEN", connections_of(app).keys.named("queue", "gone"), 3)
    async with running_worker(app):
        await wait_until(
            lambda: is_size("LLEN", connections_of(app).keys.named("queue", "gone"), 0), what="the list to be empty"
        )
        await wait_until(
            lambda: is_size("ZCARD", connections_of(app).keys.single("dead"), 1), what="dead ones to be trimmed"
        )
    assert {await job.status() for job in gone} == {State.CANCELLED}


async def test_a_sweep_ends_at_the_first_word_that_nobody_may_be_called_dead(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All leases of a fleet look run out after an outage: one call tells, not one for each of them."""
    store, asked = connections_of(app).store, 0
    for n in range(8):
        await store.run(register(f"lost{n}", 0.05, 0.01, {"label": "x"}))
    await wait_until(lambda: all_run_out(app), what="the leases to run out")
    await store.read(("SET", connections_of(app).keys.single("contact"), round(time.time() * 1000) - 60_000))
    plain = store.run

    async def counted(call: Any, *args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += call.script == "recover"
        return await plain(call, *args, **more)

    monkeypatch.setattr(store, "run", counted)
    assert (
        await recovery.recover_once(store, app.settings, "a-sweeper", recovery.Witness(None, bytes)) == []
        and asked == 1
    )


async def all_run_out(app: TrackedQueue) -> bool:
    return not any(item.alive for item in await read_instances(connections_of(app).store))
