"""Finding one enqueue among many: by part of its arguments, by options, after a while, and in the kit's Redis."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from tracked_queue import TrackedQueue, UsageError, current_job
from tracked_queue.testing import QueueKit, QueueKits, QueueTestCase, fake, including

app = TrackedQueue()


@app.task(name="send")
async def send(user: int, order: dict[str, Any] | None = None, *, locale: str = "en") -> str:
    return f"{user}:{locale}"


@app.task(name="other", queue="slow")
async def other() -> None: ...


@pytest.fixture
def queue_app() -> TrackedQueue:
    return app


async def some() -> None:
    await send.enqueue(1, {"id": 7, "lines": [{"n": 1, "x": 2}, {"n": 2}]}, locale="de")
    await send.options(queue="mail", delay=60, headers={"a": 1, "b": 2}).enqueue(2)
    await send.options(at=datetime.now(UTC) + timedelta(hours=1), id="mine").enqueue(3)
    await other.enqueue()


async def test_part_of_the_arguments_is_enough() -> None:
    with fake(app) as queue:
        await some()
    assert queue.assert_enqueued(send, 1).kwargs == {"locale": "de"}
    queue.assert_enqueued(send, locale="de")
    queue.assert_enqueued("send", user=1)
    queue.assert_enqueued(send, ANY, including({"id": 7, "lines": [{"n": 1}]}))
    queue.assert_enqueued(send, 2, locale="en")  # the default
    for wrong in (
        lambda: queue.assert_enqueued(send, 1, locale="fr"), lambda: queue.assert_enqueued(send, 4),
        lambda: queue.assert_enqueued(send, order=including({"id": 8})),
        lambda: queue.assert_enqueued(send, order=including({"lines": [{"n": 2}]})),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="no enqueue of send"):
            wrong()
    for odd in (
        lambda: queue.assert_enqueued(send, nothing=1), lambda: queue.assert_enqueued(send, 1, 2, 3),
        lambda: queue.assert_not_enqueued(send, usr=1), lambda: queue.assert_not_enqueued(send, 1, 2, 3),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="no call has such arguments"):
            odd()
    queue.assert_not_enqueued(send, 4)
    with pytest.raises(AssertionError, match="1 enqueues of send"):
        queue.assert_not_enqueued(send, 1)


async def test_options_are_looked_at_where_they_are_given() -> None:
    with fake(app) as queue:
        await some()
    queue.assert_enqueued(send.options(queue="mail"), 2)
    queue.assert_enqueued(send.options(delay=60))
    queue.assert_enqueued(send.options(at=datetime.now(UTC) + timedelta(seconds=60)), 2)
    queue.assert_enqueued(send.options(delay=3600, id="mine"), 3)
    queue.assert_enqueued(send.options(headers={"a": 1}))
    assert len(queue.all_enqueued()) == 4 and len(queue.all_enqueued(send)) == 3
    assert [call.args for call in queue.all_enqueued(send.options(queue="mail"))] == [(2,)]
    assert queue.all_enqueued(other)[0].queue == "slow"
    queue.assert_not_enqueued(send.options(queue="mail"), 1)
    for wrong in (
        send.options(queue="slow"), send.options(delay=70), send.options(headers={"a": 2}), send.options(id="yours"),
        send.options(max_attempts=3),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="no enqueue of send"):
            queue.assert_enqueued(wrong)


async def test_a_task_that_is_only_named_is_matched_too() -> None:
    with fake(app) as queue:
        await app.enqueue("remote.task", 1, locale="en")
    queue.assert_enqueued("remote.task", 1, locale="en")
    queue.assert_enqueued("remote.task", locale="en")
    for wrong in (
        lambda: queue.assert_enqueued("remote.task", 1, locale="de"),
        lambda: queue.assert_enqueued("remote.task", 2),
    ):
        with pytest.raises(AssertionError):
            wrong()


async def test_a_delay_counts_from_the_enqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake(app) as queue:
        await send.options(delay=60).enqueue(1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100)
    queue.assert_enqueued(send.options(delay=60), 1)


def test_what_includes_nothing_includes_no_none() -> None:
    assert including({}) == {} and including({}) == {"a": 1} and including({"a": {}}) == {"a": {"b": 1}}
    assert including({}) != None and including({}) != 5 and including({"a": {}}) != {"a": None}  # noqa: E711


async def test_every_way_to_enqueue_is_recorded() -> None:
    with fake(app) as queue:
        await send.enqueue(1)
        send.enqueue_sync(2)
        await app.enqueue_many([send.call(3)])
        app.enqueue_many_sync([send.call(4)])
        await app.enqueue("send", 5)
        await app.chain(send.call(6), send.call(7))
        app.group_sync([send.call(8)], then=send.call(9))
    assert [call.args for call in queue.all_enqueued(send)] == [(n,) for n in range(1, 10)]


async def test_assertions_can_wait() -> None:
    with fake(app) as queue:
        later = asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(send.enqueue(5)))
        assert (await queue.within(5).assert_enqueued(send, 5)).args == (5,)
        thread = threading.Timer(0.05, lambda: send.enqueue_sync(6))
        thread.start()
        assert (await asyncio.to_thread(queue.within(5).assert_enqueued_sync, send, 6)).args == (6,)
        thread.join()
        with pytest.raises(AssertionError, match="no enqueue of send"):
            await queue.within(0.05).assert_enqueued(send, 7)
        later.cancel()


async def test_the_kit_finds_what_waits_in_redis(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        await some()
        first = await other.enqueue()
        await send.options(after=[first]).enqueue(9)
        await kit.assert_enqueued(send, 1, including({"id": 7}), locale="de")
        await kit.assert_enqueued(send.options(queue="mail", delay=60, headers={"b": 2}), 2)
        await kit.assert_enqueued(send, 9)
        assert len(await kit.enqueued()) == 6 and len(await kit.enqueued(send)) == 4
        await kit.assert_not_enqueued(send.options(delay=61), 1)
        for unseen in (send.options(max_attempts=3), send.options(timeout=5), send.options(expires=60)):
            with pytest.raises(UsageError, match="a kit finds jobs by"):
                await kit.assert_not_enqueued(unseen, 2)
        await kit.drain()
        assert len(await kit.enqueued(send)) == 2
        await kit.advance(30)
        await kit.assert_enqueued(send.options(delay=60), 2)  # whenever it is asked


ran: list[Any] = []


@app.middleware
async def around(job: Any, call_next: Any) -> Any:
    ran.append(("around", job.id))
    return await call_next()


@app.task(name="look", max_attempts=3)
async def look(n: int) -> list[Any]:
    job = current_job()
    return [n, job.attempt, job.last_attempt, dict(job.headers), job.saved, job.queue]


@app.task(name="fails")
def fails() -> None:
    raise LookupError("no")


async def test_one_call_is_run_as_a_worker_would(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        ran.clear()
        call = look.options(headers={"a": 1}, queue="q", id="mine").call(4)
        assert await kit.run(call, attempt=3, saved={"at": 2}) == [4, 3, True, {"a": 1}, {"at": 2}, "q"]
        assert ran == [("around", "mine")]
        with pytest.raises(LookupError, match="no"):
            await kit.run(fails.call())
        assert await kit.enqueued() == []
        for wrong in (lambda: kit.run("x"), lambda: kit.run(look.call(1), attempt=0), lambda: kit.run(theirs.call())):  # type: ignore[arg-type]
            with pytest.raises(UsageError):
                await wrong()


web, workers, apart = TrackedQueue(namespace="shop"), TrackedQueue(namespace="shop"), TrackedQueue(namespace="mail")


@workers.task(name="place")
async def place(order: int) -> None:
    ran.append(("place", order))
    await mail.enqueue(order)


@workers.every(60, name="pulse")
@workers.task(name="pulse")
async def pulse() -> None:
    ran.append("pulse")


@apart.task(name="mail")
async def mail(order: int) -> None:
    ran.append(("mail", order))


@apart.every(3600, name="hourly")
@apart.task(name="theirs")
async def theirs() -> None:
    ran.append("hourly")


async def test_several_apps_are_tested_together() -> None:
    ran.clear()
    async with QueueKits(web, workers, apart, start=datetime(2030, 1, 1, tzinfo=UTC)) as kits:
        await web.enqueue("place", 1)  # by name, into the namespace of the workers
        assert await kits.drain() == 2 and ran == [("place", 1), ("mail", 1)]
        later = await place.options(delay=1800).enqueue(2)
        await kits.advance(hours=1)
        await kits.drain()
        assert {"hourly", "pulse"} < {run for run in ran if isinstance(run, str)} | {"x"}
        assert [run for run in ran if isinstance(run, tuple)][2:] == [("place", 2), ("mail", 2)]
        assert (await later.info()).state.ended
        assert await kits[web].now_ms() == await kits[apart].now_ms()
    assert web.settings.namespace == "shop"
    async with QueueKits(
        web, workers, start=datetime(2030, 1, 1, tzinfo=UTC)
    ) as kits:  # one that schedules comes second
        ran.clear()
        await kits.advance(hours=1)
        assert await kits.drain() >= 1 and "pulse" in ran

    @web.schedule_source()
    async def broken() -> list[Any]:
        raise ConnectionError("no database")

    with pytest.raises(ConnectionError):
        async with QueueKits(web, apart):
            pass
    web._definitions.sources.clear()
    assert apart.settings.namespace == "mail" and not apart._connections.closed_for
    for wrong in (lambda: QueueKits(), lambda: QueueKits(web, "x"), lambda: QueueKits(web, web)):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            wrong()
    async with QueueKit(web):
        pass  # it was given back


class TestOfUnittest(QueueTestCase):
    """Collected by pytest as well."""

    queue_app = app

    async def test_the_kit_is_open(self) -> None:
        job = await send.enqueue(1)
        self.assertEqual(await self.kit.drain(), 1)
        self.assertEqual(await job.result(1), "1:en")


async def test_a_case_without_an_app_says_so() -> None:
    class Case(QueueTestCase):
        def runTest(self) -> None: ...

    with pytest.raises(UsageError, match="queue_app = app"):
        await Case().asyncSetUp()
