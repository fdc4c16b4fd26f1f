"""The testing kit as its users use it: recorded, inline, drained, with a moved clock, and after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tracked_queue import (
    ArgumentError,
    Dead,
    Discard,
    Fixed,
    JobCancelledError,
    JobContext,
    JobFailedError,
    Rate,
    Retry,
    Snooze,
    State,
    StoreUnavailableError,
    TrackedQueue,
    UsageError,
    current_job,
)
from tracked_queue.app import producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.testing import Fake, QueueKit, fake, inline

app = TrackedQueue()
ran: list[Any] = []


@app.task(name="welcome", max_attempts=3, retry=Fixed(60))
async def welcome(user: int, *, locale: str = "en") -> str:
    ran.append(user)
    if user == 13 and current_job().attempt < 3:
        raise ValueError("unlucky")
    if user == 7:
        await welcome.enqueue(8)
    return f"{user}:{locale}"


@app.task(name="with-context")
async def with_context(ctx: JobContext[dict[str, int]], n: int) -> int:
    return ctx.state["base"] + n


doubled: list[int] = []


@app.task(name="double")
async def double(n: int) -> int:
    doubled.append(n)
    return 2 * n


@app.task(name="total")
async def total(parts: list[int]) -> int:
    return sum(parts)


@pytest.fixture
def queue_app() -> TrackedQueue:
    ran.clear()
    return app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_fake_records_and_checks_arguments(fake_queue: Fake) -> None:
    await welcome.enqueue(1, locale="de")
    await app.enqueue_many([welcome.call(2), welcome.options(delay=60).call(3)])
    fake_queue.assert_enqueued(welcome, 1, locale="de")
    assert fake_queue.assert_enqueued("welcome", 3).options.delay == 60
    fake_queue.assert_not_enqueued(with_context)
    with pytest.raises(AssertionError, match="no enqueue of welcome"):
        fake_queue.assert_enqueued(welcome, 4)
    with pytest.raises(ArgumentError):
        await welcome.enqueue("x")  # type: ignore[arg-type]
    assert ran == []


def test_fake_without_an_event_loop() -> None:
    with fake(app) as recorded:
        welcome.enqueue_sync(1)
    recorded.assert_enqueued(welcome, 1)


async def test_inline_runs_at_once_with_lifespan_and_errors() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, int]]:
        yield {"base": 40}

    producer_of(app).definitions.hooks.lifespan = lifespan
    try:
        async with inline(app):
            assert await (await welcome.enqueue(7)).result() == "7:en" and ran[-2:] == [7, 8]
            assert await (await with_context.enqueue(2)).result() == 42
            with pytest.raises(ValueError, match="unlucky"):
                await welcome.enqueue(13)
    finally:
        producer_of(app).definitions.hooks.lifespan = None


async def test_inline_runs_workflows() -> None:
    async with inline(app):
        last = await app.chain(double.call(1), double.step(), double.step())
        assert await last.result() == 8
        group = await app.group([double.call(n) for n in range(4)], then=total.step())
        assert group.then and await group.then.result() == 12 and await group.results() == [0, 2, 4, 6]
        assert (await group.progress()).done == 4
        job = await double.enqueue(3)
        assert await (await double.options(after=[job]).enqueue(4)).result() == 8
        unused = await double.options(after=[job], on_failure="fallback").enqueue(5)
        with pytest.raises(JobCancelledError):
            await unused.result()
        with pytest.raises(UsageError, match="has not run inline"):
            await double.options(after=["elsewhere"]).enqueue(4)


async def test_inline_ends_jobs_as_production_does() -> None:
    """What comes after a job without success is not run with nothing; attempts are counted; the same id is the same job."""
    own = TrackedQueue()

    @own.task(name="bad")
    async def bad() -> int:
        raise Discard("no use")

    @own.task(name="next")
    async def next_one(value: int) -> int:
        return value

    @own.task(name="all")
    async def all_of(values: list[int | None]) -> int:
        return sum(value or 0 for value in values)

    @own.task(name="mend")
    async def mend() -> str:
        return "mended"

    @own.task(name="third_time", max_attempts=3)
    async def third_time() -> int:
        if current_job().attempt < 3:
            raise Retry(0.1)
        return current_job().attempt

    async with inline(own):
        last = await own.chain(bad.call(), next_one.step())
        group = await own.group([bad.call()], then=all_of.step())
        assert group.then is not None
        for job in (last, group.then):
            with pytest.raises(JobFailedError, match="comes after"):
                await job.result()
        ignoring = await own.group([bad.call()], then=all_of.step(), on_failure="ignore")
        assert ignoring.then is not None and await ignoring.then.result() == 0
        failed = await bad.enqueue()
        assert await (await mend.options(after=[failed], on_failure="fallback").enqueue()).result() == "mended"
        assert await (await third_time.enqueue()).result() == 3
        first = await next_one.options(id="same").enqueue(1)
        again = await next_one.options(id="same").enqueue(2)
        assert first.created and not again.created and await again.result() == 1
        with pytest.raises(UsageError, match="at once"):
            await own.pause(queue="x")


async def test_of_two_that_stand_for_redis_the_inner_one_has_the_enqueues() -> None:
    with fake(app) as outer:
        with fake(app) as inner:
            await welcome.enqueue(1)
            inner.assert_enqueued("welcome")
        assert not outer.calls and len(inner.calls) == 1
        async with inline(app):
            ran.clear()
            await welcome.enqueue(2)
            assert ran
        await welcome.enqueue(3)
    assert len(outer.calls) == 1
    with pytest.raises(UsageError, match="not a TrackedQueue"), fake(1):  # type: ignore[arg-type]
        pass
    with pytest.raises(UsageError, match="not a TrackedQueue"):
        async with inline("x"):  # type: ignore[arg-type]
            pass
    with pytest.raises(UsageError, match="none of that name"):
        outer.assert_not_enqueued("welcom")
    with pytest.raises(UsageError, match="give a task"):
        outer.assert_enqueued(1)  # type: ignore[arg-type]


async def test_a_recorded_call_is_the_same_by_position_and_by_name() -> None:
    own = TrackedQueue()

    @own.task(name="named")
    async def named(n: int, times: int = 2) -> None: ...

    with fake(own) as recorded:
        await named.enqueue(2)
    recorded.assert_enqueued(named, n=2)
    recorded.assert_enqueued(named, 2, times=2)
    with pytest.raises(AssertionError):
        recorded.assert_enqueued(named, 3)


async def test_an_app_has_one_kit_at_a_time() -> None:
    own = TrackedQueue()

    @own.task(name="t")
    async def t() -> None: ...

    kit = QueueKit(own)
    with pytest.raises(UsageError, match="a kit already"):
        QueueKit(own)
    async with kit:
        with pytest.raises(UsageError, match="a kit already"):
            QueueKit(own)
        with pytest.raises(UsageError, match="open already"):
            await kit.__aenter__()
        await t.enqueue()
        assert await kit.drain() == 1
    for call, given in ((kit.now_ms, ()), (kit.dead, ()), (kit.advance, (5,))):
        with pytest.raises(UsageError, match="open the kit"):
            await call(*given)  # type: ignore[operator]
    async with QueueKit(own) as another:
        with pytest.raises(UsageError, match="advance"):
            await another.advance(days=1e300)
    del kit, call
    forgotten = QueueKit(own)
    del forgotten
    async with QueueKit(own):
        await t.enqueue()


async def test_a_kit_s_clock_is_its_app_s_alone(server: RedisServer, namespace: str) -> None:
    """Another app that was first used while a kit was open kept the test's clock for good."""
    own = TrackedQueue()
    other = TrackedQueue(server.url, namespace=namespace)

    @other.task(name="t")
    async def t() -> None: ...

    async with other:
        async with QueueKit(own):
            job = await t.enqueue()
        await t.enqueue()
        assert (await job.info()).state is State.QUEUED


async def test_crash_after_runs_jobs_as_a_worker_does(queue_kit: QueueKit) -> None:
    """With the app's lifespan, and steps of a chain with the result before them."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, int]]:
        yield {"base": 40}

    producer_of(app).definitions.hooks.lifespan = lifespan
    try:
        async with queue_kit as kit:
            doubled.clear()
            job = await with_context.enqueue(2)
            last = await app.chain(double.call(2), double.step())
            assert await kit.crash_after(2) == 2
            await kit.drain()
            assert await job.result(1) == 42 and await last.result(1) == 8
            assert doubled == [2, 2, 4]
            last = await app.chain(double.call(3), double.step())
            assert await kit.crash_after(1) == 1
            await kit.drain()
            assert await last.result(1) == 12
    finally:
        producer_of(app).definitions.hooks.lifespan = None


async def test_drain_advance_and_the_job_s_own_error(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        job = await welcome.enqueue(7)
        later = await welcome.options(delay=timedelta(days=3)).enqueue(9)
        assert await kit.drain() == 2, "what it enqueued ran as well"
        assert await job.result(1) == "7:en" and await later.status() is State.SCHEDULED
        await kit.advance(days=3)
        await kit.drain()
        assert await later.result(1) == "9:en"
        await welcome.enqueue(13)
        with pytest.raises(ValueError, match="unlucky"):
            await kit.drain()
        await kit.advance(120)
        assert await kit.drain(raises=False) == 1
        await kit.advance(120)
        assert await kit.drain() == 1 and await kit.dead() == []
    assert ran == [7, 8, 9, 13, 13, 13]


async def test_crash_after_runs_a_job_twice_as_production_would(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        job = await welcome.enqueue(5)
        assert await kit.crash_after(1) == 1
        info = await job.info()
        assert info.state is State.QUEUED and info.recoveries == 1
        assert await kit.crash_after(1, run=False) == 1
        await kit.drain()
        assert await job.result(1) == "5:en" and ran == [5, 5]


async def test_a_drain_after_a_crash_ends_although_the_job_waits_for_its_limit() -> None:
    """A burst worker waited for a suspect's limit, as it does not for other jobs; under a clock that stands still for ever."""
    own, runs = TrackedQueue(), list[str]()

    @own.task(name="limited", limit=Rate(1, per=60))
    async def limited(name: str) -> None:
        runs.append(name)

    @own.task(name="free")
    async def free(name: str) -> None:
        runs.append(name)

    async with QueueKit(own) as kit:
        await limited.enqueue("first")
        await free.enqueue("second")
        assert await kit.crash_after(2) == 2
        async with asyncio.timeout(30):
            assert await kit.drain() == 1, "a suspect behind one that waits for a limit runs"
            await free.enqueue("third")
            assert await kit.drain() == 1, "and so do fresh jobs"
        assert runs[2:] == ["second", "third"]
        await kit.advance(61)
        assert await kit.drain() == 1 and runs[-1] == "first"


def test_the_fixture_for_tests_that_are_no_coroutines(run_queue_test: Any) -> None:
    async def check(kit: QueueKit) -> int:
        await welcome.enqueue(1)
        return await kit.drain()

    assert run_queue_test(check) == 1


async def test_the_app_is_as_before(queue_kit: QueueKit) -> None:
    before = app.settings
    async with queue_kit:
        assert app.settings.namespace != before.namespace
    assert app.settings is before


def test_signals_have_text() -> None:
    assert str(Retry(after=1, reason="why")) == "why"


# What a test must not do by mistake


async def test_a_kit_that_was_not_opened_reaches_no_queue() -> None:
    """It ran the application's real queue: the jobs of whoever's Redis the settings named."""
    own = TrackedQueue("redis://127.0.0.1:1", enqueue_timeout=0.3)

    @own.task(name="t")
    async def t() -> None: ...

    kit = QueueKit(own)
    for call in (kit.drain, kit.crash_after, t.enqueue, own.run_worker, own.job("x").result):
        with pytest.raises(UsageError, match="open the kit"):
            await call()  # type: ignore[operator]
    with pytest.raises(UsageError, match="open the kit"):
        t.enqueue_sync()
    kit.close_unopened()
    with pytest.raises(StoreUnavailableError):
        await t.enqueue()
    async with QueueKit(own) as opened:
        await t.enqueue()
        assert await opened.drain() == 1
    await own.aclose()


@pytest.mark.parametrize("missed", ["skip", "once", "all"])
async def test_schedules_have_the_same_result_each_time(missed: str) -> None:
    """The clock began at the wall clock's time, so that each run had ticks elsewhere; and the first drain missed some."""
    own, ticks = TrackedQueue(), []

    @own.every(5, missed=missed)
    @own.task(name="tick")
    async def tick() -> None:
        ticks.append(current_job().scheduled_for)

    start = datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)
    for _ in range(3):
        ticks.clear()
        async with QueueKit(own, start) as kit:
            assert await kit.drain() == 0
            await kit.advance(3)
            assert await kit.drain() == 0
            await kit.advance(1)
            assert await kit.drain() == 1
            await kit.advance(20)
            assert await kit.drain() == (4 if missed == "all" else 1)
        wanted = [start + timedelta(seconds=4 + 5 * at) for at in range(5)]
        assert ticks == (wanted if missed == "all" else wanted[:2])


async def test_what_a_job_asks_for_is_no_error_of_a_test() -> None:
    own = TrackedQueue()
    asked: list[str] = []

    @own.task(name="asks", retry=[0])
    async def asks(how: str) -> None:
        asked.append(how)
        if asked.count(how) == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(wish(how))

    async def wish(how: str) -> None:
        raise {"retry": Retry(0), "snooze": Snooze(0), "discard": Discard("no"), "dead": Dead("no")}[how]

    async with QueueKit(own) as kit:
        jobs = {how: await asks.enqueue(how) for how in ("retry", "snooze", "discard", "dead")}
        await kit.drain()
        states = {how: await job.status() for how, job in jobs.items()}
        assert states == {
            "retry": State.SUCCEEDED, "snooze": State.SUCCEEDED, "discard": State.FAILED, "dead": State.DEAD,
        }  # fmt: skip
    asked.clear()
    async with inline(own):
        for how in ("retry", "snooze"):
            await (await asks.enqueue(how)).result()
        for how in ("discard", "dead"):
            with pytest.raises(JobFailedError):
                await (await asks.enqueue(how)).result()
    assert asked.count("retry") == asked.count("snooze") == 2


async def test_a_job_that_ends_badly_without_raising_is_told() -> None:
    own = TrackedQueue(cancel_grace=0.2)

    @own.task(name="slow", timeout=0.05, max_attempts=1)
    async def slow() -> None:
        await asyncio.sleep(5)

    @own.task(name="unstorable", max_attempts=1)
    async def unstorable() -> object:
        return object()

    for task, words in ((slow, "timeout"), (unstorable, "not serialisable")):
        async with QueueKit(own) as kit:
            await task.enqueue()
            with pytest.raises(JobFailedError, match=words):
                await kit.drain()


async def test_the_handle_of_a_recorded_enqueue_says_what_it_is() -> None:
    with fake(app) as recorded:
        job = await welcome.enqueue(1)
        for call in (job.result, job.info, job.cancel):
            with pytest.raises(UsageError, match="recorded by fake"):
                await call()
        with pytest.raises(UsageError, match="only recorded"):
            await app.pause(queue="q")
    assert len(recorded.calls) == 1


async def test_two_kits_have_their_clocks_whichever_ends_first() -> None:
    first, second = TrackedQueue(), TrackedQueue()

    @first.task(name="later")
    async def later() -> None: ...

    outer, inner = QueueKit(first), QueueKit(second)
    await inner.__aenter__()
    await outer.__aenter__()
    await inner.__aexit__()
    await later.options(delay=1800).enqueue()
    await outer.advance(3600)
    assert await outer.drain() == 1
    await outer.__aexit__()
