"""Schedules that a function names: made, changed and removed while workers run; what docs/how-to/schedules.md promises of them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.harness import running_worker, wait_until
from tracked_queue import Concurrency, Planned, TrackedQueue, UsageError, current_job
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.schedules import ScheduleSource
from tracked_queue.testing import QueueKit
from tracked_queue.worker.outage import Outage
from tracked_queue.worker.plans import Plans
from tracked_queue.worker.scheduler import Scheduler


class Shop:
    """An app, its schedules in a table, and what has run."""

    def __init__(self, app: TrackedQueue, path: Path) -> None:
        self.app, self.database, self.runs = app, sqlite3.connect(path, isolation_level=None), list[Any]()
        self.database.execute("create table schedules (name text primary key, tenant int, every real)")
        self.broken = False

        @app.task(name="report")
        async def report(tenant: int) -> None:
            job = current_job()
            self.runs.append((tenant, job.queue, dict(job.headers), job.scheduled_for))

        @app.schedule_source(every=0.05)
        async def reports() -> list[Planned]:
            if self.broken:
                raise ConnectionError("no database")
            return [
                Planned(name=name, call=report.options(headers={"tenant": str(tenant)}).call(tenant), every=every)
                for name, tenant, every in self.database.execute("select name, tenant, every from schedules")
            ]

        self.report, self.source = report, reports

    def write(self, name: str, tenant: int, every: float = 1.0) -> None:
        self.database.execute("insert or replace into schedules values (?, ?, ?)", (name, tenant, every))

    def ran(self, tenant: int) -> int:
        return sum(run[0] == tenant for run in self.runs)


@pytest.fixture
def shop(app: TrackedQueue, tmp_path: Path) -> Any:
    made = Shop(app, tmp_path / "shop.db")
    yield made
    made.database.close()


async def test_they_come_change_and_go_while_a_worker_runs(shop: Shop) -> None:
    async with running_worker(shop.app):
        assert await shop.app.read_schedules() == []
        shop.write("a", 1)
        await wait_until(lambda: shop.ran(1))
        assert shop.runs[0][1:3] == ("default", {"tenant": "1"}) and shop.runs[0][3] is not None
        shop.write("a", 2)  # of the same name: it takes its place
        await wait_until(lambda: shop.ran(2))
        before = shop.ran(1)
        await wait_until(lambda: shop.ran(2) >= 2)
        assert shop.ran(1) == before
        (known,) = await shop.app.read_schedules()
        assert (known.name, known.task, known.rule) == ("a", "report", "every 1 s")
        shop.database.execute("delete from schedules")
        shop.write("b", 3)
        await wait_until(lambda: shop.ran(3))
        before = shop.ran(2)
        await wait_until(lambda: shop.ran(3) >= 2)
        assert shop.ran(2) == before
    assert all(run[3].microsecond == 0 for run in shop.runs), "each run is a tick"
    ticks = [(run[0], run[3]) for run in shop.runs]
    assert len(ticks) == len(set(ticks))


async def test_two_workers_store_each_tick_once(shop: Shop) -> None:
    shop.write("a", 1)
    async with running_worker(shop.app), running_worker(shop.app):
        await wait_until(lambda: shop.ran(1) >= 3)
    ticks = [run[3] for run in shop.runs]
    assert len(ticks) == len(set(ticks))


async def test_a_source_that_fails_changes_nothing(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    shop.write("a", 1)
    async with running_worker(shop.app):
        await wait_until(lambda: shop.ran(1))
        shop.broken = True
        count = shop.ran(1)
        await wait_until(lambda: shop.ran(1) >= count + 2)
        shop.broken = False
        shop.write("b", 2)
        await wait_until(lambda: shop.ran(2))
    logged = capfd.readouterr().out
    assert logged.count("schedules.unread") == 1 and "no database" in logged and "schedules.read_again" in logged


async def test_trigger_pause_and_the_lifespan_s_state(server: RedisServer, namespace: str) -> None:
    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[list[str]]:
        yield ["x"]

    app = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan)
    runs: list[str] = []

    @app.task(name="t")
    async def task(text: str) -> None:
        runs.append(text)

    @app.schedule_source(every=0.05)
    async def by_state(state: list[str]) -> Sequence[Planned]:
        return [Planned(name=f"s-{text}", call=task.call(text), every=1) for text in state]

    @app.schedule_source(every=0.05)
    async def yearly() -> Sequence[Planned]:
        return (Planned(name="yearly", call=task.options(queue="q").call("y"), cron="@yearly", tz="Europe/Berlin"),)

    async with running_worker(app, queues=["default", "q"]):
        await wait_until(lambda: "x" in runs)
        job = await app.trigger("yearly")
        await job.result(10)
        assert (await job.info()).queue == "q" and "y" in runs
        await app.pause(schedule="s-x")
        assert {(item.name, item.paused) for item in await app.read_schedules()} == {("s-x", True), ("yearly", False)}
    with pytest.raises(UsageError, match="none of that name"):
        await app.trigger("s-x")  # its source needs a worker's state
    await app.aclose()


async def test_a_kit_s_clock_moves_them(shop: Shop) -> None:
    async with QueueKit(shop.app, datetime(2030, 1, 1, tzinfo=UTC)) as kit:
        shop.write("a", 1, 3600)
        await kit.advance(1)
        shop.write("b", 2, 1800)
        await kit.advance(hours=3)
        await kit.drain()
        assert shop.ran(1) and shop.ran(2)
        shop.database.execute("delete from schedules")
        await kit.advance(hours=3)
        assert await kit.drain() == 0
        shop.write("a", 1, 3600)  # named again: nothing of the time between, and the clock does not go back
        before = await kit.now_ms()
        count = shop.ran(1)
        await kit.advance(minutes=10)
        await kit.drain()
        assert shop.ran(1) <= count + 1 and await kit.now_ms() == before + 600_000


# What a source may name, without a worker.


def planned(app: TrackedQueue, task: Any, **more: Any) -> Planned:
    return Planned(**{"name": "s", "call": task.call(1), "every": 60, **more})


async def test_what_is_wrong_is_left_out_and_logged_once(app: TrackedQueue, capfd: pytest.CaptureFixture[str]) -> None:
    other = TrackedQueue()

    @other.task(name="theirs")
    async def theirs(n: int) -> None: ...

    @app.every(60, name="fixed")
    @app.task(
        name="t",
    )
    async def task(n: int = 0) -> None: ...

    @app.task(name="u", tracked=False)
    async def untracked(n: int) -> None: ...

    wrong = [
        (planned(app, task, name="fixed"), "the code has one of that name"), (planned(app, task, every=0.1), "a second or more"),
        (planned(app, task, cron="* * * * *"), "cron= or every="), (planned(app, task, every=None), "cron= or every="),
        (planned(app, task, every=None, cron="nonsense"), "cron expression"), (planned(app, task, tz="Nowhere/At"), "timezone"),
        (planned(app, task, missed="never"), "missed"), (planned(app, theirs), "of a task of this app"),
        (planned(app, task, call="x"), "of a task of this app"), (planned(app, untracked), "tracked=False"),
        (planned(app, task, call=task.options(delay=5).call(1)), "delay"), (planned(app, task, call=task.options(id="x").call(1)), "id"),
        (planned(app, task, name=""), "schedule"), ("text", "text"), (planned(app, task, every=None, cron=5), "must be text"),
        (planned(app, task, tz=5), "timezone"),
    ]  # fmt: skip
    plans = Plans(app.schedules, [], lambda item: item.schedule(producer_of(app)), lambda _: 0)

    async def nothing() -> list[Planned]:
        return []

    source = ScheduleSource(name="source", function=nothing, every_s=1, takes_state=False)
    second = ScheduleSource(name="second", function=nothing, every_s=1, takes_state=False)
    good = planned(app, task, name="good")
    for item, says in wrong:
        for _ in range(2):
            await plans.take(source, [item, good])  # type: ignore[list-item]
        assert sorted(found.name for found in plans.of(0)) == ["fixed", "good"], item
        logged = capfd.readouterr().out
        assert logged.count("schedule.refused") == 1 and says in logged, (says, logged)
        await plans.take(source, [good])
    version = plans.version
    await plans.take(source, [planned(app, task, name="good")])
    assert plans.version == version, "the same again is no change"
    await plans.take(second, [planned(app, task, name="good"), planned(app, task, name="more")])
    assert sorted(found.name for found in plans.of(0)) == ["fixed", "good", "more"] and plans.version == version + 1
    await plans.take(source, [planned(app, task, name="good", call=task.call(2))])
    assert plans.version == version + 2


def test_wrong_sources_are_named() -> None:
    app = TrackedQueue()

    async def fine() -> list[Planned]:
        return []

    def plain() -> list[Planned]:
        return []

    async def two(a: Any, b: Any) -> list[Planned]:
        return []

    for wrong in (
        lambda: app.schedule_source()(plain), lambda: app.schedule_source()(two), lambda: app.schedule_source()(5),  # type: ignore[arg-type,type-var]
        lambda: app.schedule_source(every=0)(fine), lambda: app.schedule_source(fine),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()
    assert app.schedule_source()(fine) is fine


async def test_what_is_no_list_is_an_error_of_the_source(app: TrackedQueue) -> None:
    async def odd() -> Any:
        return {"name": "x"}

    with pytest.raises(UsageError, match=r"a source returns a list of Planned"):
        await ScheduleSource(name="odd", function=odd, every_s=1, takes_state=False).read(None)


async def test_odd_readings_end_no_source(server: RedisServer, namespace: str) -> None:
    """A name of any kind, a task of the source's own that was cancelled, a value that can't be compared."""
    app = TrackedQueue(server.url, namespace=namespace)
    runs, readings = [], []

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    @app.task(name="t")
    async def task(n: int) -> None:
        runs.append(n)

    @app.schedule_source(every=0.02)
    async def source() -> list[Any]:
        readings.append(1)
        if len(readings) == 3:
            waits = asyncio.ensure_future(asyncio.sleep(60))
            waits.cancel()
            await waits
        odd = [Planned(name=["x"], call=task.call(1), every=1), Planned(name=Odd(), call=task.call(1), every=1)]  # type: ignore[arg-type,list-item]
        return [*odd, Planned(name="good", call=task.call(len(readings) // 10), every=1)]

    async with running_worker(app):
        await wait_until(lambda: len(readings) > 20 and len(runs) >= 2)
    await app.aclose()


async def test_one_that_is_named_again_ticks_from_then_on(shop: Shop) -> None:
    """What it missed while nobody named it is not caught up on."""

    @shop.app.task(name="all")
    async def every_tick(n: int) -> None:
        shop.runs.append(("all", current_job().scheduled_for))

    named = [True]

    @shop.app.schedule_source(every=0.05)
    async def again() -> list[Planned]:
        return [Planned(name="again", call=every_tick.call(1), every=1, missed="all")] if named[0] else []

    def ticks() -> list[Any]:
        return sorted(run[1] for run in shop.runs if run[0] == "all")

    async with running_worker(shop.app):
        await wait_until(lambda: ticks())
        named[0] = False
        shop.write("clock", 1)  # another one, to see the time pass by
        count = shop.ran(1)
        await wait_until(lambda: shop.ran(1) >= count + 4)
        before = len(ticks())
        named[0] = True
        await wait_until(lambda: len(ticks()) > before)
    found = ticks()
    assert max((later - earlier).total_seconds() for earlier, later in pairwise(found)) >= 2, found


async def test_arguments_that_move_a_schedule_to_another_shard_store_no_tick_twice(
    server: RedisServer, namespace: str
) -> None:
    app = TrackedQueue(server.url, namespace=namespace, shards=2)
    runs: list[Any] = []

    @app.task(name="t", limit=Concurrency(5, key="tenant"))
    async def task(tenant: str) -> None:
        runs.append((tenant, current_job().scheduled_for))

    tenant = ["a"]

    @app.schedule_source(every=0.05)
    async def source() -> list[Planned]:
        return [Planned(name="s", call=task.call(tenant[0]), every=1, missed="all")]

    async with running_worker(app):
        for name in ("a", "b", "c", "a", "b", "c"):
            tenant[0] = name
            count = len(runs)
            await wait_until(lambda count=count: len(runs) > count)
    found = [tick for _, tick in runs]
    assert len(found) == len(set(found)), runs
    await app.aclose()


async def test_a_burst_waits_for_the_first_reading(shop: Shop) -> None:
    shop.write("a", 1)
    for _ in range(2):
        await shop.app.run_worker(burst=True, handle_signals=False)
    assert [item.name for item in await shop.app.read_schedules()] == ["a"]


async def test_a_source_that_comes_and_goes_leaves_nothing_behind(app: TrackedQueue) -> None:
    @app.task(name="t")
    async def task(n: int) -> None: ...

    plans = Plans({}, [], lambda item: item.schedule(producer_of(app)), lambda _: 0)

    async def nothing() -> list[Planned]:
        return []

    source = ScheduleSource(name="s", function=nothing, every_s=1, takes_state=False)
    scheduler = Scheduler(
        store=connections_of(app).store,
        plans=plans,
        shard=0,
        make=producer_of(app).tick,
        outage=Outage(),
        lost=lambda: False,
    )
    for _ in range(20):
        await plans.take(source, [Planned(name=f"s{n}", call=task.call(n), cron="@yearly") for n in range(50)])
        assert await scheduler._tell(scheduler._take(plans.of(0)))
        await plans.take(source, [])
        scheduler._take(plans.of(0))
    assert len(scheduler._due) <= 2 * 50 + 100


async def test_sealed_arguments_are_no_change(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace, encryption_keys=Fernet.generate_key().decode())

    @app.task(name="t")
    async def task(n: int) -> None: ...

    plans = Plans({}, [], lambda item: item.schedule(producer_of(app)), lambda _: 0)

    async def source() -> list[Planned]:
        return [Planned(name="s", call=task.call(1), every=60)]

    known = ScheduleSource(name="s", function=source, every_s=1, takes_state=False)
    for _ in range(3):
        await plans.take(known, await known.read(None))
    assert plans.version == 1


async def test_thousands_hold_nobody_up(app: TrackedQueue) -> None:
    """The event loop goes on while they are taken, and only those that change cost anything later."""

    @app.task(name="t")
    async def task(n: int) -> None: ...

    async def many() -> list[Planned]:
        return [
            Planned(name=f"s{n}", call=task.call(n), cron=f"{n % 60} 3 * * *", tz="Europe/Berlin") for n in range(3000)
        ]

    plans = Plans({}, [], lambda item: item.schedule(producer_of(app)), lambda _: 0)
    source = ScheduleSource(name="many", function=many, every_s=1, takes_state=False)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    await plans.take(source, await source.read(None))
    assert turns >= 20
    before = {id(item) for item in plans.of(0)}
    await plans.take(source, await source.read(None))
    beside.cancel()
    assert {id(item) for item in plans.of(0)} == before and plans.version == 1
