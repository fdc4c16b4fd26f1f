"""Each way of writing and relaying: what is committed runs once, what is rolled back never."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness import running_worker, wait_until
from tests.outbox.conftest import Way
from tracked_queue import EnqueueUnavailableError, JobNotFoundError, State, TrackedQueue, UsageError
from tracked_queue.app import connections_of
from tracked_queue.outbox import Outbox, ddl
from tracked_queue.outbox.databases import Row, Verdicts


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
        f"insert into tracked_queue_outbox (job_id, namespace, payload) values ('x', '{app.settings.namespace}', 'nonsense')"
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
        "the row's payload can't b",
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


class Dies(Exception):
    """The relay's process ends here."""


class Mortal:
    """A database whose relay dies at a step; what it does before that is done."""

    def __init__(self, inner: Any, step: str) -> None:
        self.inner, self.step = inner, step

    async def pass_on(self, namespace: str, most: int, send: Any) -> int:
        async def sending(found: Sequence[Row]) -> Verdicts:
            if self.step == "claimed":
                raise Dies
            verdicts = await send(found)
            if self.step == "sent":
                raise Dies
            return verdicts

        passed: int = await self.inner.pass_on(namespace, most, sending)
        return passed

    async def ask(self, *given: Any) -> Any:
        return await self.inner.ask(*given)

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
    with pytest.raises(UsageError, match="poll"):
        Outbox(app, "sqlite:///x", poll=0)
    with pytest.raises(UsageError, match="app"):
        Outbox("app")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="oracle"):
        ddl("oracle")
