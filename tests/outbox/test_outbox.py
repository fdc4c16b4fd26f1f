"""Each way of writing and relaying: what is committed runs once, what is rolled back never."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from tests.harness import running_worker, wait_until
from tests.outbox.conftest import Way
from tracked_queue import EnqueueUnavailableError, JobNotFoundError, NotDurableError, State, TrackedQueue, UsageError
from tracked_queue.app import connections_of
from tracked_queue.outbox import Outbox, ddl
from tracked_queue.outbox import outbox as outbox_module
from tracked_queue.outbox.databases import Page, Row, Verdicts
from tracked_queue.protocol.times import WAIT_EDGES
from tracked_queue.worker.meter import METER


async def write(way: Way, outbox: Outbox, call: Any, commit: bool = True) -> Any:
    done = way.write(outbox, call, commit)
    return await done if inspect.isawaitable(done) else done


def rows(way: Way) -> int:
    return int(way.execute("select count(*) from tracked_queue_outbox")[0][0])


async def test_what_is_committed_runs_once_and_what_is_rolled_back_never(
    app: TrackedQueue, way: Way, outbox: Outbox
) -> None:
    runs: list[int] = []

    @app.task(name="t")
    async def t(n: int) -> int:
        runs.append(n)
        return n

    committed = [await write(way, outbox, t.call(n), n % 3 != 0) for n in range(30)]
    with pytest.raises(JobNotFoundError):
        await committed[1].info()
    status = await outbox.status()
    assert (status.waiting, status.refused) == (20, 0)
    assert status.oldest_s is not None and 0 <= status.oldest_s < 60
    async with running_worker(app):  # with a relay beside its jobs
        for n, job in enumerate(committed):
            if n % 3:
                await wait_until(lambda job=job: _known(job), what="the relay")
                assert await job.result(10) == n
        late = await write(way, outbox, t.call(100))
        await wait_until(lambda: 100 in runs, what="a row that came while the worker ran")
        assert await late.result(10) == 100
    assert sorted(runs) == sorted([*(n for n in range(30) if n % 3), 100])
    assert rows(way) == 0
    assert (await outbox.status()).oldest_s is None


async def _known(job: Any) -> bool:
    try:
        await job.info()
    except JobNotFoundError:
        return False
    return True


async def test_two_relays_at_once_pass_each_row_on_once(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    for n in range(40):
        await write(way, outbox, t.call(n))
    other = Outbox(app, way.database)
    passed = await asyncio.gather(outbox.relay(), other.relay())
    await other.aclose()
    assert rows(way) == 0
    assert sum(passed) >= 40
    assert (await app.operator.queues()).queues[0].length == 40


async def test_delays_and_expiry_count_from_the_insert(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    before = datetime.now(UTC)
    later = await write(way, outbox, t.options(delay=3600).call(1))
    gone = await write(way, outbox, t.options(expires=0.001).call(2))
    fixed = datetime(2099, 1, 1, tzinfo=UTC)
    at = await write(way, outbox, t.options(at=fixed, id="mine", headers={"a": "b"}).call(3))
    await asyncio.sleep(0.01)
    await outbox.relay()
    due = (await later.info()).due_at
    assert due is not None and before <= due - timedelta(hours=1) + timedelta(milliseconds=2) <= datetime.now(UTC)
    info = await at.info()
    assert (info.id, info.due_at, info.headers, info.args) == ("mine", fixed, {"a": "b"}, (3,))
    async with running_worker(app):
        await wait_until(lambda: _is(gone, State.EXPIRED), what="its expiry")


async def _is(job: Any, state: State) -> bool:
    return await job.status() is state


async def test_a_row_that_can_not_be_passed_on_holds_up_no_other(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    @app.task(name="other")
    async def other(n: int) -> None: ...

    await write(way, outbox, t.options(after=["nobody"]).call(1))
    await other.options(id="taken").enqueue(1)
    await write(way, outbox, t.options(id="taken").call(1))
    way.execute(
        "insert into tracked_queue_outbox (job_id, namespace, payload, format) "
        f"values ('x', '{app.settings.namespace}', 'nonsense', 1)"
    )
    fine = await write(way, outbox, t.call(7))
    assert await outbox.relay() == 4
    async with running_worker(app):
        assert await fine.result(10) == 7
    status = await outbox.status()
    assert (status.waiting, status.refused) == (0, 3)
    problems = sorted(found[0] for found in way.execute("select problem from tracked_queue_outbox"))
    assert [text.split(":")[0][:25] for text in problems] == [
        "it comes after job nobody",
        "its id belongs to a job o",
        "the row's payload is dama",
    ]
    await outbox.retry()
    assert (await outbox.status()).waiting == 3
    assert await outbox.relay() == 3


async def test_another_namespace_s_rows_are_left_alone(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t() -> None: ...

    await write(way, outbox, t.call())
    way.execute("update tracked_queue_outbox set namespace = 'another'")
    assert await outbox.relay() == 0
    assert rows(way) == 1


async def test_while_redis_is_away_rows_stay(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    jobs = [await write(way, outbox, t.call(n)) for n in range(3)]
    away = TrackedQueue("redis://127.0.0.1:1", namespace=app.settings.namespace, enqueue_timeout=0.1)
    relay = Outbox(away, way.database)
    for _ in range(2):
        with pytest.raises(EnqueueUnavailableError):
            await relay.relay()
    await relay.aclose()
    await away.aclose()
    assert rows(way) == 3
    async with running_worker(app):
        for n, job in enumerate(jobs):
            await wait_until(lambda job=job: _known(job), what="the relay")
            assert await job.result(10) == n


HOUR_AGO = {
    "postgresql": "created_at - interval '1 hour'",
    "mysql": "created_at - interval 1 hour",
    "sqlite": "datetime(created_at, '-1 hour')",
}


async def test_what_relays_did_is_counted(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    await write(way, outbox, t.call(1))
    way.execute(f"update tracked_queue_outbox set created_at = {HOUR_AGO[way.dialect]}")
    await write(way, outbox, t.call(2))
    await write(way, outbox, t.options(after=["nobody"]).call(3))
    before = dict(METER.counts)
    dying = Outbox(app, Mortal(outbox._database, "sent"))
    with pytest.raises(Dies):
        await dying.relay()  # a later one counts its rows
    assert await outbox.relay() == 3
    grown = {key: count - before.get(key, 0.0) for key, count in METER.counts.items() if key[0].startswith("outbox_")}
    old = ("outbox_seconds", str(bisect_left(WAIT_EDGES, 3601.0)))
    assert grown[old] == 1 and sum(count for key, count in grown.items() if key[0] == "outbox_seconds") == 2
    assert grown["outbox_refused",] == 1
    assert await outbox.relay() == 0
    assert METER.counts[old] == before.get(old, 0.0) + 1, "what was counted is not counted again"


async def test_a_row_whose_time_is_damaged_is_passed_on(app: TrackedQueue, tmp_path: Path) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    with closing(sqlite3.connect(tmp_path / "a.sqlite3")) as database, database:
        database.executescript(ddl("sqlite"))
        writer = Outbox(app)
        writer.enqueue_sync(database, t.call(1))
        database.execute("update tracked_queue_outbox set created_at = 'yesterday'")
    outbox = Outbox(app, f"sqlite:///{tmp_path / 'a.sqlite3'}")
    assert await outbox.relay() == 1
    await outbox.aclose()


class Unwell:
    """A database that is away at times."""

    def __init__(self) -> None:
        self.is_away, self.asked = True, 0

    async def pass_on(self, page: Page, send: Any) -> Sequence[Row]:
        self.asked += 1
        if self.is_away:
            raise OSError("away")
        return []

    async def close(self) -> None: ...


async def test_the_time_in_which_a_relay_can_not_work_is_counted_as_it_goes_on(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "pauses", lambda *_: repeat(0.01))
    database = Unwell()
    outbox = Outbox(app, database, poll=0.01)
    key = ("outbox_paused_seconds",)
    began, before = time.monotonic(), METER.counts[key]
    relay = asyncio.create_task(outbox.run_relay())
    for _ in range(3):
        asked, seen = database.asked, METER.counts[key]
        await wait_until(lambda asked=asked: database.asked >= asked + 2, what="another try")
        assert METER.counts[key] > seen
    database.is_away = False
    asked, seen = database.asked, METER.counts[key]
    await wait_until(lambda: database.asked >= asked + 2, what="it to be back")
    after = METER.counts[key]
    assert after > seen, "the last pause, too"
    assert after - before <= time.monotonic() - began
    asked = database.asked
    await wait_until(lambda: database.asked >= asked + 3, what="it to be at work")
    assert METER.counts[key] == after, "it works again"
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)


class Dies(Exception):
    """The relay's process ends here."""


class Mortal:
    """A database whose relay dies at a step; what it does before that is done."""

    def __init__(self, inner: Any, step: str) -> None:
        self.inner, self.step = inner, step

    async def pass_on(self, page: Page, send: Any) -> Sequence[Row]:
        async def sending(found: Sequence[Row], waits: Any) -> Verdicts:
            if self.step == "claimed":
                raise Dies
            verdicts: Verdicts = await send(found, waits)
            if self.step == "sent":
                raise Dies
            return verdicts

        passed: Sequence[Row] = await self.inner.pass_on(page, sending)
        return passed

    async def ask(self, *given: Any, **values: Any) -> Any:
        return await self.inner.ask(*given, **values)

    async def close(self) -> None:
        await self.inner.close()


@pytest.mark.parametrize("step", ["claimed", "sent"])
async def test_a_relay_that_dies_between_two_steps_doubles_and_loses_nothing(
    app: TrackedQueue, way: Way, outbox: Outbox, step: str
) -> None:
    """The worst of it: it has sent the rows, they have run, and their records are gone before anybody resumes."""
    runs: list[int] = []

    @app.task(name="t", keep_result=False)
    async def t(n: int) -> None:
        runs.append(n)

    for n in range(5):
        await write(way, outbox, t.call(n))
    dying = Outbox(app, Mortal(outbox._database, step))
    app_hooks = dying._producer.definitions.hooks
    app_hooks.companions.remove(dying)
    app_hooks.companions.remove(outbox)
    with pytest.raises(Dies):
        await dying.relay()
    assert rows(way) == 5
    async with running_worker(app):
        if step == "sent":
            await wait_until(lambda: len(runs) == 5, what="the jobs")
            store = connections_of(app).store
            for key in await store.read(("KEYS", f"{{{app.settings.namespace}}}:job:*")):
                for one in key:
                    await store.read(("DEL", one))
        assert await outbox.relay() == 5
        await wait_until(lambda: len(runs) >= 5, what="the jobs")
        fence = await t.enqueue(99)
        await fence.result(10)
    assert sorted(runs) == [0, 1, 2, 3, 4, 99]
    assert rows(way) == 0


async def test_what_comes_after_a_row_that_another_relay_has_waits_for_it(
    app: TrackedQueue, way: Way, outbox: Outbox
) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    parent = await write(way, outbox, t.call(1))
    claimed, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Mortal):
        async def pass_on(self, page: Page, send: Any) -> Sequence[Row]:
            async def sending(found: Sequence[Row], waits: Any) -> Verdicts:
                claimed.set()
                await go_on.wait()
                verdicts: Verdicts = await send(found, waits)
                return verdicts

            passed: Sequence[Row] = await self.inner.pass_on(page, sending)
            return passed

    other = Outbox(app, way.database)
    slow = Outbox(app, Slow(other._database, ""))
    first = asyncio.ensure_future(slow.relay())
    await claimed.wait()
    child = await write(way, outbox, t.options(after=[parent.id]).call(2))
    lone = await write(way, outbox, t.options(after=["nobody"]).call(3))
    await outbox.relay()
    status = await outbox.status()
    assert status.refused == 1, "only what comes after a job of which nobody knows"
    go_on.set()
    await first
    await outbox.relay()
    assert (await outbox.status()).waiting == 0
    assert (await child.info()).after == (parent.id,)
    with pytest.raises(JobNotFoundError):
        await lone.info()
    await other.aclose()


async def test_rows_of_a_newer_format_wait_for_a_newer_relay(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    await write(way, outbox, t.call(1))
    way.execute("update tracked_queue_outbox set format = 2")
    job = await write(way, outbox, t.call(2))
    assert await outbox.relay() == 1
    assert (await job.info()).args == (2,)
    assert (await outbox.status()).refused == 0 and rows(way) == 1


async def test_what_can_not_be_made_durable_holds_up_no_other_row(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    for n in range(3):
        await write(way, outbox, t.options(durability="replica").call(n))  # there is none
    plain = [await write(way, outbox, t.call(n)) for n in range(3)]
    connections_of(app).settings = replace(app.settings, enqueue_timeout=0.3, durability_timeout=0.1)
    with pytest.raises(NotDurableError):
        await outbox.relay()
    for job in plain:
        assert (await job.info()).state is State.QUEUED
    assert rows(way) == 3, "they are asked for again"


# SQLAlchemy warns of a connection whose making was cancelled.
@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
async def test_a_relay_that_is_cancelled_leaves_no_row_locked(app: TrackedQueue, way: Way, outbox: Outbox) -> None:
    @app.task(name="t")
    async def t(n: int) -> None: ...

    for n in range(20):
        await write(way, outbox, t.call(n))
    for at in range(25):
        with anyio.move_on_after(0.0004 * at):
            await outbox.relay()
        other = Outbox(app, way.database)
        await write(way, outbox, t.call(100 + at))
        async with asyncio.timeout(5):
            while rows(way):
                await other.relay()
        await other.aclose()


async def test_burst_workers_run_without_the_database(app: TrackedQueue) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    def connect() -> Any:
        raise ConnectionError("the database is away")

    Outbox(app, connect)
    job = await t.enqueue(1)
    await app.run_worker(burst=True, handle_signals=False)
    assert await job.result(1) == 1


async def test_subclasses_of_sessions_and_rows_of_factories(app: TrackedQueue, tmp_path: Path) -> None:
    class OwnAsync(AsyncSession):
        pass

    class Own(Session):
        pass

    @app.task(name="t")
    async def t(n: int) -> None: ...

    path = tmp_path / "x.sqlite3"
    sync = create_engine(f"sqlite:///{path}")
    with sync.begin() as connection:
        connection.exec_driver_sql(ddl("sqlite"))
    outbox = Outbox(app, lambda: _named(path))
    with Own(sync) as session:
        outbox.enqueue_sync(session, t.call(1))
        session.commit()
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with OwnAsync(engine) as later:
        await outbox.enqueue(later, t.call(2))
        with pytest.raises(UsageError, match="await outbox.enqueue"):
            outbox.enqueue_sync(later, t.call(3))
        await later.commit()
    assert await outbox.relay() == 2
    assert (await outbox.status()).waiting == 0
    await outbox.aclose()
    await engine.dispose()
    sync.dispose()
    with pytest.raises(UsageError, match="StaticPool"):
        Outbox(app, create_engine("sqlite://", poolclass=StaticPool))


def _named(path: Path) -> Any:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.row_factory = lambda cursor, row: dict(zip([item[0] for item in cursor.description], row, strict=True))
    return connection


@pytest.fixture
async def only_writes(app: TrackedQueue) -> AsyncIterator[Outbox]:
    yield Outbox(app)


async def test_wrong_use_is_named(app: TrackedQueue, only_writes: Outbox, tmp_path: Path) -> None:
    import sqlite3

    @app.task(name="t")
    async def t(n: int) -> None: ...

    with pytest.raises(UsageError, match="without a database"):
        await only_writes.relay()
    with pytest.raises(UsageError, match="builtins.int is no connection"):
        only_writes.enqueue_sync(3, t.call(1))
    connection = sqlite3.connect(tmp_path / "x")
    with pytest.raises(UsageError, match="enqueue_sync"):
        await only_writes.enqueue(connection, t.call(1))
    connection.close()
    for wrong in (3, "mysql://x", object()):
        with pytest.raises(UsageError, match="outbox: database"):
            Outbox(app, wrong)
    with pytest.raises(UsageError, match="known_for=1: it must be 60 s"):
        Outbox(app, "sqlite:///x", known_for=1)
    with pytest.raises(UsageError, match="poll"):
        Outbox(app, "sqlite:///x", poll=0)
    with pytest.raises(UsageError, match="app"):
        Outbox("app")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="oracle"):
        ddl("oracle")
