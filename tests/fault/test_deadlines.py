"""
Every public call ends within its documented limit, whatever the server and the other callers do, and says what became of it.

Source: docs/explanation/failures.md, "How long a call may take".
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import pytest

from tests.harness import wait_until
from tracked_queue import (
    DeadFilter,
    Job,
    JobCancelledError,
    JobNotFoundError,
    StoreUnavailableError,
    Task,
    TrackedQueue,
)
from tracked_queue.app import NamedEnqueue, connections_of
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.task import TaskWithOptions
from tracked_queue.model.workflow import Group
from tracked_queue.operator.many import Selection
from tracked_queue.operator.operator import Operator
from tracked_queue.operator.viewer import Viewer
from tracked_queue.reports.instances import InstanceReport

pytestmark = pytest.mark.timeout(60)

INSTANCE = InstanceReport(
    lease="a-lease", label="", host="", pid=1, version="", queues=(), task_names=(), concurrency=1, started_at=None, seen_s=None,
    deadline_s=1.0, revoked=False, quiet=False, owned=0, tests=False, machine="", born="", program="",
)  # fmt: skip

ENQUEUE_S, REPLY_S, RESULT_S = 1.6, 1.0, 0.8
# Beyond its limit a call may take this: a last look at a record, and a busy machine.
MORE_S = 1.0


@dataclass
class Caller:
    """An app of its own for each call, so that none waits for another."""

    app: TrackedQueue
    task: Task[[int], int]
    job: Job[Any]

    async def watched(self) -> Any:
        watching = self.job.watch()
        return await anext(watching)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """In a thread at once: asyncio's own few threads would be waited for."""
        return await anyio.to_thread.run_sync(function, *args)


Call = Callable[[Caller], Awaitable[Any]]

# Each public call that asks Redis, by class and name, with its limit.
CALLS: dict[str, tuple[float, Call]] = {
    "Task.enqueue": (ENQUEUE_S, lambda c: c.task.enqueue(1)),
    "Task.enqueue_sync": (ENQUEUE_S, lambda c: c.in_thread(c.task.enqueue_sync, 1)),
    "TaskWithOptions.enqueue": (ENQUEUE_S, lambda c: c.task.options(delay=1).enqueue(1)),
    "TaskWithOptions.enqueue_sync": (ENQUEUE_S, lambda c: c.in_thread(c.task.options(delay=1).enqueue_sync, 1)),
    "NamedEnqueue.enqueue": (ENQUEUE_S, lambda c: c.app.options(delay=1).enqueue("other", 1)),
    "NamedEnqueue.enqueue_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.options(delay=1).enqueue_sync, "other", 1)),
    "TrackedQueue.enqueue": (ENQUEUE_S, lambda c: c.app.enqueue("other", 1)),
    "TrackedQueue.enqueue_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.enqueue_sync, "other", 1)),
    "TrackedQueue.enqueue_many": (ENQUEUE_S, lambda c: c.app.enqueue_many([c.task.call(1)])),
    "TrackedQueue.enqueue_many_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.enqueue_many_sync, [c.task.call(1)])),
    "TrackedQueue.chain": (ENQUEUE_S, lambda c: c.app.chain(c.task.call(1), c.task.step())),
    "TrackedQueue.chain_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.chain_sync, c.task.call(1), c.task.step())),
    "TrackedQueue.group_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.group_sync, [c.task.call(1)])),
    "TrackedQueue.batch_sync": (ENQUEUE_S, lambda c: c.in_thread(c.app.batch_sync, [c.task.call(1)])),
    "TrackedQueue.group": (ENQUEUE_S, lambda c: c.app.group([c.task.call(1)])),
    "TrackedQueue.batch": (ENQUEUE_S, lambda c: c.app.batch([c.task.call(1)])),
    "TrackedQueue.trigger": (ENQUEUE_S, lambda c: c.app.trigger("late")),
    "TrackedQueue.pause": (REPLY_S, lambda c: c.app.pause(queue="default")),
    "TrackedQueue.resume": (REPLY_S, lambda c: c.app.resume(queue="default")),
    "TrackedQueue.cancel_many": (REPLY_S, lambda c: c.app.cancel_many(queue="default")),
    "TrackedQueue.retire": (REPLY_S, lambda c: c.app.retire(queue="default")),
    "TrackedQueue.recover": (REPLY_S, lambda c: c.app.recover()),
    "TrackedQueue.read_schedules": (REPLY_S, lambda c: c.app.read_schedules()),
    "Viewer.queues": (REPLY_S, lambda c: c.app.operator.queues()),
    "Viewer.queue_age": (REPLY_S, lambda c: c.app.operator.queue_age("default")),
    "Viewer.knows": (REPLY_S, lambda c: c.app.operator.knows(queue="default")),
    "Viewer.instances": (REPLY_S, lambda c: c.app.operator.instances()),
    "Viewer.active": (REPLY_S, lambda c: c.app.operator.active(INSTANCE)),
    "Viewer.schedules": (REPLY_S, lambda c: c.app.operator.schedules()),
    "Viewer.dead": (REPLY_S, lambda c: c.app.operator.dead()),
    "Viewer.jobs": (REPLY_S, lambda c: c.app.operator.jobs("queued")),
    "Viewer.numbers": (REPLY_S, lambda c: c.app.operator.numbers()),
    "Viewer.scale": (REPLY_S, lambda c: c.app.operator.scale(["default"])),
    "Viewer.times": (REPLY_S, lambda c: c.app.operator.times()),
    "Viewer.tasks": (REPLY_S, lambda c: c.app.operator.tasks()),
    "Viewer.explain": (REPLY_S, lambda c: c.app.operator.explain("some-job")),
    "Viewer.acts": (REPLY_S, lambda c: c.app.operator.acts()),
    "Viewer.recoveries": (REPLY_S, lambda c: c.app.operator.recoveries()),
    "Viewer.dead_groups": (REPLY_S, lambda c: c.app.operator.dead_groups()),
    "Viewer.newest_dead": (REPLY_S, lambda c: c.app.operator.newest_dead(DeadFilter(), 10)),
    "Viewer.holders": (REPLY_S, lambda c: c.app.operator.holders("n6:narrow")),
    "Viewer.workflow": (REPLY_S, lambda c: c.app.operator.workflow("some-job")),
    "Viewer.minutes": (REPLY_S, lambda c: c.app.operator.minutes(1, 2)),
    "Viewer.places": (REPLY_S, lambda c: c.app.operator.places(["some-job"])),
    "Viewer.select": (REPLY_S, lambda c: c.app.operator.select(Selection(state="dead"))),
    "Viewer.count": (REPLY_S, lambda c: c.app.operator.count(Selection(state="queued"))),
    "Operator.many": (REPLY_S, lambda c: c.app.operator.many("cancel", Selection(state="queued"))),
    "Operator.recover_orphans": (REPLY_S, lambda c: c.app.operator.recover_orphans(["some-job"])),
    "Operator.note_act": (REPLY_S, lambda c: c.app.operator.note_act("look")),
    "Viewer.examine": (REPLY_S, lambda c: c.app.operator.examine()),
    "Viewer.unheld": (REPLY_S, lambda c: c.app.operator.unheld({1: {0: "a-lease"}})),
    "Viewer.picture": (REPLY_S, lambda c: c.app.operator.picture()),
    "Viewer.limits": (REPLY_S, lambda c: c.app.operator.limits()),
    "Operator.move": (REPLY_S, lambda c: c.app.operator.move(["some-job"], "other")),
    "Operator.move_queue": (REPLY_S, lambda c: c.app.operator.move_queue("default", "other")),
    "Operator.reschedule": (REPLY_S, lambda c: c.app.operator.reschedule(["some-job"], 0)),
    "Operator.delete": (REPLY_S, lambda c: c.app.operator.delete(["no-such-job"])),
    "Operator.requeue": (REPLY_S, lambda c: c.app.operator.requeue(["some-job"])),
    "Operator.purge": (REPLY_S, lambda c: c.app.operator.purge(["some-job"])),
    "Operator.cancel": (REPLY_S, lambda c: c.app.operator.cancel(["some-job"])),
    "Operator.cancel_many": (REPLY_S, lambda c: c.app.operator.cancel_many(queue="default")),
    "Operator.retire": (REPLY_S, lambda c: c.app.operator.retire(queue="default")),
    "Operator.pause": (REPLY_S, lambda c: c.app.operator.pause(queue="default")),
    "Operator.resume": (REPLY_S, lambda c: c.app.operator.resume(queue="default")),
    "Operator.quiet": (REPLY_S, lambda c: c.app.operator.quiet("label")),
    "Operator.recover": (REPLY_S, lambda c: c.app.operator.recover()),
    "Operator.trigger": (ENQUEUE_S, lambda c: c.app.operator.trigger("late")),
    "Job.status": (REPLY_S, lambda c: c.job.status()),
    "Job.info": (REPLY_S, lambda c: c.job.info()),
    "Job.info_sync": (REPLY_S, lambda c: c.in_thread(c.job.info_sync)),
    "Job.progress": (REPLY_S, lambda c: c.job.progress()),
    "Job.states_of": (REPLY_S, lambda c: c.job.states_of([c.job])),
    "Job.cancel_sync": (REPLY_S, lambda c: c.in_thread(c.job.cancel_sync)),
    "Job.result_sync": (RESULT_S, lambda c: c.in_thread(lambda: c.job.result_sync(RESULT_S))),
    "Job.cancel": (REPLY_S, lambda c: c.job.cancel()),
    "Job.watch": (REPLY_S, lambda c: c.watched()),
    "Job.result": (RESULT_S, lambda c: c.job.result(RESULT_S)),
    "Group.results": (RESULT_S, lambda c: Group(jobs=(c.job, c.job)).results(RESULT_S)),
    "Group.progress": (REPLY_S, lambda c: Group(jobs=(c.job,)).progress()),
}  # fmt: skip
# What has no limit: a worker; an app that is closed.
NO_CALLS = {"TrackedQueue.run_worker", "TrackedQueue.aclose"}


def test_every_public_call_is_here() -> None:
    """A new one can't be forgotten."""
    found = set()
    for kind in (TrackedQueue, Viewer, Operator, Task, TaskWithOptions, NamedEnqueue, Job, Group):
        for name, member in vars(kind).items():
            waits = inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member) or name == "watch"
            if not name.startswith("_") and (waits or name.endswith("_sync")):
                found.add(f"{kind.__name__}.{name}")
    assert found - NO_CALLS == set(CALLS)


def caller(url: str, namespace: str, **settings: Any) -> Caller:
    app = TrackedQueue(
        url, namespace=namespace, enqueue_timeout=ENQUEUE_S, reply_timeout=REPLY_S, connect_timeout=REPLY_S, **settings
    )

    @app.every(3600, name="late", args=[1])
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    return Caller(app, t, app.job("some-job"))


async def timed(name: str, caller: Caller) -> tuple[str, float, BaseException | None]:
    _, call = CALLS[name]
    began = time.monotonic()
    error: BaseException | None = None
    try:
        await call(caller)
    except Exception as raised:
        error = raised
    return name, time.monotonic() - began, error


async def all_calls(callers: dict[str, Caller]) -> None:
    """Make every call at the same time, and look at how long each took and what it says."""
    done = await asyncio.gather(*(timed(name, one) for name, one in callers.items()))
    late = {name: f"{seconds:.1f} s" for name, seconds, _ in done if seconds > CALLS[name][0] + MORE_S}
    assert not late, late
    for name, _, error in done:
        if CALLS[name][0] == RESULT_S:
            assert type(error) is TimeoutError, (name, error)
        else:
            assert isinstance(error, StoreUnavailableError), (name, error)
            assert "carried out" in str(error) or "stored" in str(error), (name, error)


@contextlib.asynccontextmanager
async def callers(url: str, namespace: str, **settings: Any) -> AsyncIterator[dict[str, Caller]]:
    made = {name: caller(url, namespace, **settings) for name in CALLS}
    try:
        yield made
    finally:
        for one in made.values():
            await one.app.aclose()


async def warm(made: dict[str, Caller]) -> None:
    """Connections that are open and have been used, synchronous ones too (each thread has its own)."""
    for name, one in made.items():
        await one.task.options(id="some-job").enqueue(1)
        if name == "Job.result":
            with pytest.raises(TimeoutError):
                await one.job.result(0.01)


async def test_a_server_that_accepts_and_never_answers(namespace: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        async with callers(f"redis://127.0.0.1:{silent.getsockname()[1]}", namespace) as made:
            await all_calls(made)


async def test_a_server_that_is_stopped(namespace: str) -> None:
    server = RedisServer()
    try:
        async with callers(server.url, namespace) as made:
            await warm(made)
            server.freeze()
            await all_calls(made)
            server.thaw()
    finally:
        server.close()


async def test_all_connections_in_use(namespace: str) -> None:
    """Whoever waits for a connection waits within the limit of the call."""
    server = RedisServer()
    try:
        async with callers(server.url, namespace, max_connections=1) as made:
            await warm(made)
            server.freeze()
            busy = [asyncio.ensure_future(connections_of(one.app).store.read(("PING",))) for one in made.values()]
            await asyncio.sleep(0)
            await all_calls(made)
            server.thaw()
            await asyncio.gather(*busy, return_exceptions=True)
    finally:
        server.close()


async def test_many_who_wait_for_results_take_no_connection_from_an_enqueue(namespace: str) -> None:
    """With 200 of them and a stopped server an enqueue had not raised after 150 s."""
    server = RedisServer()
    try:
        async with callers(server.url, namespace) as made:
            one = made["Task.enqueue"]
            await warm({"Task.enqueue": one})
            waiters = [asyncio.ensure_future(one.job.result()) for _ in range(200)]
            await wait_until(
                lambda: connections_of(one.app).here().of_id("some-job").results._waiters, what="them to wait"
            )
            server.freeze()
            _, seconds, error = await timed("Task.enqueue", one)
            assert seconds < ENQUEUE_S + MORE_S and isinstance(error, StoreUnavailableError)
            server.thaw()
            _, seconds, error = await timed("Task.enqueue", one)
            assert error is None
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
    finally:
        server.close()


async def test_connections_that_were_forgotten_while_they_were_idle(server: RedisServer, namespace: str) -> None:
    """
    As a balancer or NAT does it, without a word: nothing fails, since idle links are asked first, and a second try fits.

    `result()` waited for ever on a subscription that nobody heard any more.
    """
    async with Proxy(server.port) as proxy, callers(proxy.url, namespace) as made:
        await warm(made)
        await asyncio.gather(*(one.in_thread(one.task.enqueue_sync, 1) for one in made.values()))
        proxy.idle_limit_s = 1.2
        await asyncio.sleep(1.5)
        done = await asyncio.gather(*(timed(name, one) for name, one in made.items()))
        late = {name: f"{seconds:.1f} s" for name, seconds, _ in done if seconds > CALLS[name][0] + MORE_S}
        assert not late, late
        for name, _, error in done:
            if CALLS[name][0] == RESULT_S:
                # The job has not ended, unless another of these calls has cancelled it.
                assert isinstance(error, TimeoutError | JobCancelledError), (name, error)
            else:
                assert error is None, (name, error)


async def test_a_result_comes_although_the_subscription_was_forgotten(server: RedisServer, namespace: str) -> None:
    """The notice went into the void; the record is looked at beside it, and a last time before TimeoutError."""
    async with Proxy(server.port) as proxy:
        direct = TrackedQueue(server.url, namespace=namespace)

        @direct.task(name="t")
        async def t(n: int) -> int:
            return n

        async with direct:
            waiting = TrackedQueue(proxy.url, namespace=namespace)
            async with waiting:
                job = await t.enqueue(7)
                result = asyncio.ensure_future(waiting.job(job.id).result(20))
                hub = connections_of(waiting).here().of_id(job.id).results
                await wait_until(lambda: hub._connected and hub._waiters, what="it to wait")
                proxy.freeze_open_connections()
                await direct.run_worker(burst=True, handle_signals=False)
                assert await result == 7


async def test_a_result_that_is_there_is_found_at_the_last_look(server: RedisServer, namespace: str) -> None:
    """`result(0)` of a job that had succeeded said that it had not ended."""
    app = TrackedQueue(server.url, namespace=namespace)

    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    async with app:
        job = await t.enqueue(7)
        await app.run_worker(burst=True, handle_signals=False)
        assert await job.result(0) == 7
        assert await app.job(job.id).result(0) == 7


async def test_who_waits_for_a_record_that_vanishes_hears_of_it(server: RedisServer, namespace: str) -> None:
    """After two seconds at most, and not after thirty."""
    app = TrackedQueue(server.url, namespace=namespace)
    async with app:
        job = await app.enqueue("t", 1)
        result = asyncio.ensure_future(job.result(20))
        hub = connections_of(app).here().of_id(job.id).results
        await wait_until(lambda: hub._connected and hub._waiters, what="it to wait")
        await connections_of(app).store.read(("DEL", connections_of(app).keys.named("job", job.id)))
        began = time.monotonic()
        with pytest.raises(JobNotFoundError):
            await result
        assert time.monotonic() - began < 10


async def test_answers_to_our_own_unsubscriptions_reset_nobody(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were taken for a slot that had moved, when somebody had subscribed anew: all waiters lost their connection."""
    app = TrackedQueue(server.url, namespace=namespace)
    async with app:
        jobs = [await app.enqueue("t", n) for n in range(20)]
        waiters = [asyncio.ensure_future(job.result()) for job in jobs]
        hub = connections_of(app).here().of_id(jobs[0].id).results
        await wait_until(lambda: len(hub._subscribed) == 20 and all(one.is_set() for one in hub._subscribed.values()))
        resets: list[bool] = []
        close = hub._link.close

        async def noted() -> None:
            resets.append(True)
            await close()

        monkeypatch.setattr(hub._link, "close", noted)
        for n in range(100):
            async with hub._listening(f"other-{n % 3}"):
                pass
        await wait_until(lambda: not hub._leaving or resets, what="all answers")
        assert not resets and not hub._leaving and hub._connected
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)


async def test_the_look_at_many_jobs_outlives_those_that_leave_meanwhile(server: RedisServer, namespace: str) -> None:
    async with TrackedQueue(server.url, namespace=namespace) as app:
        jobs = [await app.enqueue("t", n) for n in range(3)]
        ids = [f"none-{n}" for n in range(600)]
        hub = connections_of(app).here().of_id(jobs[0].id).results
        async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as rest:
            for one in ids[:300]:
                await first.enter_async_context(hub._listening(one))
            for one in ids[300:]:
                await rest.enter_async_context(hub._listening(one))
            looking = asyncio.ensure_future(hub._look_at_jobs())
            await asyncio.sleep(0)  # its first portion is asked for
            await rest.aclose()
            await looking
