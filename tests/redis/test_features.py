"""What a team expects, in a worker of this very loop: outcomes on purpose, time, uniqueness, limits, workflows, context."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from tests.harness import wait_until
from tests.redis.test_client import running_worker
from tests.rights import look
from tracked_queue import (
    ArgumentError,
    Concurrency,
    Dead,
    Discard,
    DuplicateJobError,
    Enqueueing,
    Fixed,
    JobCancelledError,
    JobContext,
    JobFailedError,
    Rate,
    Results,
    Retry,
    Snooze,
    State,
    TrackedQueue,
    Unique,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of, producer_of
from tracked_queue.protocol.transitions import close, purge, requeue
from tracked_queue.reports.dead import DeadFilter, read_dead

QUICKLY = Fixed(0.01)


# Outcomes on purpose and retry policies


async def test_outcomes_that_a_job_raises_on_purpose(app: TrackedQueue) -> None:
    runs: list[str] = []

    @app.task(name="wish", max_attempts=2, retry=QUICKLY)
    async def wish(what: str) -> str:
        runs.append(what)
        if what == "snooze" and runs.count("snooze") < 4:
            raise Snooze(timedelta(milliseconds=10))
        if what == "retry" and current_job().attempt == 1:
            raise Retry(after=0)
        if what == "discard":
            raise Discard("the user is gone")
        if what == "dead":
            raise Dead("a person has to look")
        return f"{what} in attempt {current_job().attempt}"

    async with running_worker(app):
        jobs = {what: await wish.enqueue(what) for what in ("snooze", "retry", "discard", "dead")}
        assert await jobs["snooze"].result(10) == "snooze in attempt 1", "a snooze spends no attempt"
        assert await jobs["retry"].result(10) == "retry in attempt 2"
        for what, state, reason in (
            ("discard", "failed", "the user is gone"),
            ("dead", "dead", "a person has to look"),
        ):
            with pytest.raises(JobFailedError, match=reason) as found:
                await jobs[what].result(10)
            assert found.value.state == state and runs.count(what) == 1
        assert (await jobs["snooze"].info()).snoozes == 3


async def test_retry_on_and_give_up_on_decide_by_the_exceptions_type(app: TrackedQueue) -> None:
    runs: list[str] = []

    @app.task(name="picky", max_attempts=3, retry=QUICKLY, retry_on=(OSError, KeyError), give_up_on=FileNotFoundError)
    async def picky(kind: str) -> None:
        runs.append(kind)
        raise {"os": OSError, "file": FileNotFoundError, "value": ValueError}[kind]("x")

    async with running_worker(app):
        states = {}
        for kind in ("os", "file", "value"):
            with pytest.raises(JobFailedError) as found:
                await (await picky.enqueue(kind)).result(10)
            states[kind] = found.value.state
    assert states == {"os": "dead", "file": "failed", "value": "failed"}
    assert [runs.count(kind) for kind in ("os", "file", "value")] == [3, 1, 1]


async def test_delays_from_a_function_a_list_and_what_happens_when_the_function_raises(app: TrackedQueue) -> None:
    asked: list[tuple[int, str]] = []

    def delay(attempt: int, error: BaseException) -> float:
        asked.append((attempt, str(error)))
        if attempt == 2:
            raise RuntimeError("a bug in the policy")
        return 0.01

    @app.task(name="computed", max_attempts=3, retry=delay)
    async def computed() -> None:
        raise ValueError("no")

    @app.task(name="listed", max_attempts=3, retry=[0.01, 0.02])
    async def listed() -> int:
        if current_job().attempt < 3:
            raise ValueError("no")
        return current_job().attempt

    async with running_worker(app):
        job = await computed.enqueue()
        assert await (await listed.enqueue()).result(10) == 3
        await wait_until(lambda: len(asked) == 2, what="the second failure")

        async def delayed() -> bool:
            info = await job.info()  # the default's full jitter may be next to nothing, and then it has run again
            return len(info.failures) >= 2 and info.state in (State.SCHEDULED, State.DEAD)

        await wait_until(delayed, what="the default delay in its place")
    assert asked == [(1, "no"), (2, "no")]


async def _is(job: Any, state: State) -> bool:
    return await job.status() is state


async def test_the_last_five_errors_stay_with_the_job_and_the_hook_hears_of_the_end(app: TrackedQueue) -> None:
    told: list[str] = []

    async def tell(job: Any, error: BaseException) -> None:
        told.append(f"{job.task} {job.attempt} {error}")

    @app.task(name="failing", max_attempts=7, retry=Fixed(0), on_exhausted=tell)
    async def failing() -> None:
        raise ValueError(f"attempt {current_job().attempt}")

    async with running_worker(app):
        job = await failing.enqueue()
        with pytest.raises(JobFailedError):
            await job.result(10)
        await wait_until(lambda: told, what="the hook")
    info = await job.info()
    assert [failure.message for failure in info.failures] == [f"attempt {n}" for n in range(3, 8)]
    assert all(failure.at and failure.lease and "ValueError" in failure.traceback for failure in info.failures)
    assert told == ["failing 7 attempt 7"] and info.attempts == 7


# Time


async def test_a_job_that_has_not_started_in_time_expires_without_a_run(app: TrackedQueue) -> None:
    ran: list[int] = []

    @app.task(name="soon", expires=0.05)
    async def soon(n: int) -> None:
        ran.append(n)

    late, long = await soon.enqueue(1), await soon.options(expires=timedelta(hours=1)).enqueue(2)
    await wait_until(lambda: _older(late, 0.06), what="its time to be over")
    async with running_worker(app):
        await long.result(10)
        with pytest.raises(JobFailedError, match="time to start"):
            await late.result(10)
    assert ran == [2] and await late.status() is State.EXPIRED


async def _older(job: Any, seconds: float) -> bool:
    queued_at = (await job.info()).queued_at
    return bool((datetime.now(UTC) - queued_at).total_seconds() > seconds)


async def test_a_job_that_has_started_does_not_expire(app: TrackedQueue) -> None:
    """A retry or a snooze beyond `expires` still runs: it has started in time."""

    @app.task(name="started", expires=2.0, max_attempts=2, retry=[2.1])
    async def started(snooze: bool) -> int:
        if current_job().attempt == 1 and not snooze:
            raise ValueError("again")
        if snooze and not current_job().saved:
            await current_job().checkpoint(1)
            raise Snooze(2.1)
        return current_job().attempt

    async with running_worker(app):
        jobs = [await started.enqueue(snooze) for snooze in (False, True)]
        assert [await job.result(10) for job in jobs] == [2, 1]


async def test_a_job_can_extend_its_own_timeout(app: TrackedQueue) -> None:
    @app.task(name="long", timeout=0.1, max_attempts=1)
    async def long(extend: bool) -> str:
        if extend:
            current_job().extend_timeout(10)
        await asyncio.sleep(0.3)
        return "done"

    async with running_worker(app):
        assert await (await long.enqueue(True)).result(10) == "done"
        with pytest.raises(JobFailedError, match="timeout"):
            await (await long.enqueue(False)).result(10)


@pytest.mark.parametrize("bad", [float("nan"), timedelta(days=40000), "1", True])
async def test_nonsense_times_are_refused_at_the_call(app: TrackedQueue, bad: Any) -> None:
    """CASE-45."""
    for name in ("delay", "timeout", "expires"):
        with pytest.raises(UsageError, match=name):
            app.options(**{name: bad})
    with pytest.raises(UsageError):
        Snooze(bad)


# Cancelling


async def test_cancel_many_by_task_and_queue(app: TrackedQueue) -> None:
    started = asyncio.Event()

    @app.task(name="one")
    async def one(n: int) -> None:
        started.set()
        await asyncio.sleep(60)

    @app.task(name="two", queue="other", limit=Concurrency(1))
    async def two(n: int) -> None: ...

    jobs = [await one.enqueue(1), await one.options(delay=60).enqueue(2), await two.enqueue(1), await two.enqueue(2)]
    jobs.append(await one.options(after=[jobs[2]], on_failure="ignore").enqueue(3))
    async with running_worker(app, queues=["default"]):
        await started.wait()
        assert await app.cancel_many(task="one") == 3
        assert await app.cancel_many(queue="other") == 2
        for job in jobs:
            await wait_until(lambda job=job: _is(job, State.CANCELLED), what=f"{job} to be cancelled")
    with pytest.raises(UsageError):
        await app.cancel_many()


async def test_cancel_many_of_more_parked_jobs_than_a_page(app: TrackedQueue) -> None:
    """They leave their list while it is read."""

    @app.task(name="parked")
    async def parked(n: int) -> None: ...

    await app.pause(task="parked")
    jobs = await app.enqueue_many([parked.call(n) for n in range(600)])
    async with running_worker(app):
        await wait_until(lambda: _is(jobs[-1], State.PARKED), what="all to be parked")
        await wait_until(lambda: _is(jobs[0], State.PARKED))
    assert await app.cancel_many(task="parked") == 600
    assert await app.cancel_many(task="parked") == 0


# Uniqueness


async def test_200_enqueues_of_one_unique_key_store_one_job(app: TrackedQueue) -> None:
    """CASE-46: also when the arguments are given in another way."""

    @app.task(name="once", unique="until_done")
    async def once(user: int, locale: str = "en") -> str:
        return locale

    calls: list[Callable[[], Any]] = [
        lambda: once.enqueue(1), lambda: once.enqueue(user=1), lambda: once.enqueue(1, locale="en"),
    ]  # fmt: skip
    jobs = await asyncio.gather(*(calls[n % 3]() for n in range(200)))
    assert len({job.id for job in jobs}) == 1 and sum(job.created for job in jobs) == 1
    assert (await once.enqueue(2)).created
    async with running_worker(app):
        assert await jobs[7].result(10) == "en"
        assert (await once.enqueue(1)).created, "CASE-47: the key is free while the old result is kept"
        assert await jobs[0].result(10) == "en"


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "dead", "expired"])
async def test_the_key_is_free_after_every_end(app: TrackedQueue, end: str) -> None:
    """CASE-47."""

    @app.task(name="ends", unique="until_done", max_attempts=1, expires=0.05 if end == "expired" else None)
    async def ends() -> None:
        if end == "failed":
            raise Discard("x")
        if end == "dead":
            raise ValueError("x")

    job = await ends.enqueue()
    assert not (await ends.enqueue()).created
    if end == "cancelled":
        await job.cancel()
    if end == "expired":
        await wait_until(lambda: _older(job, 0.06))
    async with running_worker(app):
        await wait_until(lambda: _is(job, State(end)), what=end)
        assert (await ends.enqueue()).created


async def test_conflicts_reject_and_replace(app: TrackedQueue) -> None:
    @app.task(name="rejecting", unique=Unique(by="user", conflict="reject"))
    async def rejecting(user: int, text: str) -> None: ...

    @app.task(name="debounced", unique=Unique("started", by="user", conflict="replace"))
    async def debounced(user: int, text: str) -> str:
        return text

    first = await rejecting.enqueue(1, "a")
    with pytest.raises(DuplicateJobError) as found:
        await rejecting.enqueue(1, "b")
    assert found.value.job_id == first.id

    job = await debounced.options(delay=0.2).enqueue(1, "old")
    due = (await job.info()).due_at
    again = await debounced.options(delay=0.4).enqueue(1, "new")
    assert again.id == job.id and not again.created
    later = (await job.info()).due_at
    assert due and later and later > due, "the timer starts again"
    async with running_worker(app):
        assert await job.result(10) == "new"


async def test_a_window_holds_the_key_whatever_the_job_does(app: TrackedQueue) -> None:
    @app.task(name="throttled", unique=Unique(window=0.3))
    async def throttled() -> int:
        return 1

    async with running_worker(app):
        job = await throttled.enqueue()
        await job.result(10)
        again = await throttled.enqueue()
        assert not again.created and await again.result(10) == 1
        await wait_until(lambda: _created(throttled), what="the window to be over")


async def _created(task: Any) -> bool:
    return bool((await task.enqueue()).created)


async def test_until_started_lets_a_job_enqueue_its_successor(app: TrackedQueue) -> None:
    """CASE-49: twenty runs, never two at once."""
    runs = 0
    together = 0

    @app.task(name="chained", unique="until_started")
    async def chained() -> None:
        nonlocal runs, together
        together += 1
        assert together == 1
        runs += 1
        if runs < 20:
            assert (await chained.options(delay=0.01).enqueue()).created
        together -= 1

    async with running_worker(app):
        await chained.enqueue()
        await wait_until(lambda: runs == 20, what="20 runs")


# Limits and turns


async def test_concurrency_holds_over_two_workers_and_blocks_nobody_behind(app: TrackedQueue) -> None:
    running = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0}

    @app.task(name="limited", limit=Concurrency(2, key="tenant"))
    async def limited(tenant: str, n: int) -> None:
        running[tenant] += 1
        most[tenant] = max(most[tenant], running[tenant])
        await asyncio.sleep(0.02)
        running[tenant] -= 1

    @app.task(name="free")
    async def free() -> None: ...

    jobs = [await limited.enqueue(tenant, n) for tenant in "ab" for n in range(20)]
    behind = await free.enqueue()
    async with running_worker(app), running_worker(app):
        await behind.result(10)
        assert sum([await job.status() is State.SUCCEEDED for job in jobs]) < 40, "the free one did not wait for them"
        for job in jobs:
            await job.result(20)
    assert most == {"a": 2, "b": 2}


async def test_a_rate_holds_in_any_window(app: TrackedQueue) -> None:
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    @app.task(name="rated", limit=Rate(5, per=0.5))
    async def rated() -> None:
        starts.append(loop.time())

    jobs = await app.enqueue_many([rated.call() for _ in range(15)])
    async with running_worker(app):
        for job in jobs:
            await job.result(20)
    # The limit counts by the server's clock, when it hands them out; a start here comes a little later.
    assert all(later - first > 0.4 for first, later in zip(starts, starts[5:], strict=False))


async def test_a_limit_of_a_whole_queue_and_a_shared_name(app: TrackedQueue) -> None:
    running = most = 0
    app.limit_queue("narrow", Concurrency(1))

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    @app.task(name="one", queue="narrow")
    async def one() -> None:
        await work()

    @app.task(name="two", queue="narrow", limit=Rate(1000, per=1))
    async def two() -> None:
        await work()

    jobs = [await task.enqueue() for task in (one, two) * 5]
    async with running_worker(app):
        for job in jobs:
            await job.result(10)
    assert most == 1


async def test_equal_values_of_two_keys_are_two_limits(app: TrackedQueue) -> None:
    together: set[int] = set()
    most = 0

    @app.task(name="keyed", limit=[Concurrency(1, key="a"), Concurrency(1, key="b")])
    async def keyed(a: int, b: int) -> None:
        nonlocal most
        together.add(a)
        most = max(most, len(together))
        await wait_until(lambda: most == 2, what="the other one")

    jobs = [await keyed.enqueue(1, 2), await keyed.enqueue(2, 1)]
    async with running_worker(app):
        for job in jobs:
            await job.result(10)


async def test_a_job_enqueued_by_name_gets_the_limits_of_its_task_from_the_worker(
    app: TrackedQueue, elsewhere: TrackedQueue
) -> None:
    running = most = 0

    @app.task(name="narrow", limit=Concurrency(1, key="tenant"), retry=QUICKLY)
    async def narrow(tenant: str, n: int = 0) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if current_job().attempt == 1 and n == 3:
            raise ValueError("once")
        return current_job().attempt

    jobs = [await elsewhere.enqueue("narrow", "one", n=n) for n in range(10)]
    jobs += [await narrow.enqueue("one", n) for n in range(10, 20)]
    bad = await elsewhere.enqueue("narrow", "one", 2, 3, 4)
    async with running_worker(app):
        assert sum([await job.result(10) for job in jobs]) == 21, "binding spends no attempt"
        with pytest.raises(JobFailedError, match="takes 2 positional"):
            await bad.result(10)
    assert most == 1
    info = await jobs[0].info()
    assert info.interruptions == info.recoveries == 0


async def test_a_job_enqueued_by_name_respects_the_unique_key(app: TrackedQueue, elsewhere: TrackedQueue) -> None:
    runs: list[int] = []
    go = asyncio.Event()

    @app.task(name="one_of_a_kind", unique=Unique(by="user"))
    async def one_of_a_kind(user: int) -> None:
        runs.append(user)
        await go.wait()

    async with running_worker(app):
        first = await elsewhere.enqueue("one_of_a_kind", 7)
        await wait_until(lambda: runs, what="the first run")
        again = await one_of_a_kind.enqueue(7)
        assert again.id == first.id and not again.created, "the worker has claimed the key"
        late = await elsewhere.enqueue("one_of_a_kind", user=7)
        with pytest.raises(JobCancelledError):
            await late.result(10)
        assert f"job {first.id} holds its unique key" in ((await late.info()).reason or "")
        go.set()
        await first.result(10)
        third = await elsewhere.enqueue("one_of_a_kind", 7)
        await third.result(10)
    assert runs == [7, 7]


async def test_a_job_that_began_before_its_task_had_a_key_is_not_dropped_for_one(
    app: TrackedQueue, elsewhere: TrackedQueue
) -> None:
    """A deploy gives the task a unique key while one of its jobs waits for its second attempt."""

    async def work(user: int) -> int:
        if current_job().attempt == 1 and not current_job().headers:
            raise ValueError("once")
        await asyncio.sleep(0.05)
        return current_job().attempt

    elsewhere.task(name="late_key", retry=Fixed(0.3))(work)
    begun = await elsewhere.enqueue("late_key", 7)
    worker = asyncio.ensure_future(elsewhere.run_worker(handle_signals=False))
    await wait_until(lambda: _is(begun, State.SCHEDULED), what="its first attempt to fail")
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
    keyed = app.task(name="late_key", unique=Unique(by="user"), retry=Fixed(0.3))(work)
    holder = await keyed.options(delay=60).enqueue(7)
    assert holder.created
    async with running_worker(app):
        assert await app.job(begun.id).result(10) == 2
    assert await holder.status() is State.SCHEDULED


async def test_a_deploy_changes_the_number_of_a_limit_for_jobs_that_wait(app: TrackedQueue) -> None:
    def define(on: TrackedQueue, most: int) -> Any:
        @on.task(name="resized", limit=Concurrency(most, key="tenant"))
        async def resized(tenant: int, n: int) -> None:
            nonlocal running, top
            running += 1
            top = max(top, running)
            await asyncio.sleep(0.005)
            running -= 1

        return resized

    running = top = 0
    old = define(app, 1)
    jobs = [await old.enqueue(1, n) for n in range(30)]
    newer = TrackedQueue(**_same_place(app))
    define(newer, 4)
    async with newer, running_worker(newer):
        for job in jobs:
            await newer.job(job.id).result(10)
    assert top == 4


def _same_place(app: TrackedQueue) -> dict[str, Any]:
    return {"redis_url": app.settings.redis_url, "namespace": app.settings.namespace}


@pytest.fixture
async def elsewhere(app: TrackedQueue) -> AsyncIterator[TrackedQueue]:
    """A producer of the same queues without the tasks' code."""
    async with TrackedQueue(**_same_place(app)) as producer:
        yield producer


async def test_a_member_whose_unique_key_is_held_is_stood_in_for_by_its_holder(app: TrackedQueue) -> None:
    @app.task(name="member", unique=Unique(by="n"))
    async def member(n: int) -> int:
        return n

    @app.task(name="total")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    @app.task(name="strict", unique=Unique(by="n", conflict="reject"))
    async def strict(n: int) -> int:
        return n

    holder = await member.enqueue(3)
    # Over several calls to Redis, and within one.
    group = await app.group([member.call(n) for n in range(300)], then=total.step())
    assert group.jobs[3].id == holder.id and not group.jobs[3].created
    small = await app.group([member.call(3), member.call(1000)], then=total.step())
    held = await strict.enqueue(1)
    with pytest.raises(DuplicateJobError) as found:
        await app.group([strict.call(0), strict.call(1)], then=total.step())
    assert found.value.job_id == held.id and len(found.value.stored) == 2
    async with running_worker(app):
        assert await group.then.result(10) == sum(range(300))
        assert await small.then.result(10) == 1003
        assert await found.value.stored[-1].result(10) == 1


async def test_turns_let_one_job_of_a_small_tenant_pass_a_thousand_of_a_big_one(app: TrackedQueue) -> None:
    done: list[str] = []

    @app.task(name="fair", fair_by="tenant")
    async def fair(tenant: str, n: int) -> None:
        done.append(tenant)

    await app.enqueue_many([fair.call("big", n) for n in range(1000)])
    small = await fair.enqueue("small", 1)
    async with running_worker(app, concurrency=1):
        await small.result(10)
        assert done.index("small") <= 20


async def test_plain_jobs_and_lanes_of_one_queue_share_it(app: TrackedQueue) -> None:
    done: list[str] = []

    @app.task(name="laned", fair_by="tenant")
    async def laned(tenant: int) -> None:
        done.append("laned")

    @app.task(name="plain")
    async def plain(n: int) -> None:
        done.append("plain")

    await app.enqueue_many([laned.call(n % 7) for n in range(300)] + [plain.call(n) for n in range(300)])
    async with running_worker(app, concurrency=10):
        await wait_until(lambda: len(done) == 600, 20, "all jobs")
    assert {"laned", "plain"} == set(done[:200]), "neither side waits for the end of the other"


async def test_options_that_can_not_be_kept_are_refused(app: TrackedQueue) -> None:
    with pytest.raises(UsageError, match="Concurrency"):
        app.task(tracked=False, limit=Concurrency(1))
    with pytest.raises(UsageError, match="until_started"):
        app.task(tracked=False, unique="until_done")
    for bad in (0, -1, 1.5, True):
        with pytest.raises(UsageError):
            Concurrency(bad)  # type: ignore[arg-type]

    app.limit_queue("narrow", Concurrency(1))

    @app.task(name="untracked", tracked=False)
    async def untracked() -> None: ...

    with pytest.raises(UsageError, match="narrow"):
        await untracked.options(queue="narrow").enqueue()
    job = await untracked.enqueue()
    with pytest.raises(UsageError, match="after="):
        await untracked.options(after=[job]).enqueue()

    for bad in (
        {"limit": Concurrency(1, key="nobody")},
        {"unique": Unique(by=["n", "nobody"])},
        {"fair_by": "nobody"},
    ):
        with pytest.raises(UsageError, match="'nobody'; it has n"):

            @app.task(**bad)
            async def keyed(n: int) -> None: ...

    with pytest.raises(UsageError, match="two of the same kind"):
        app.task(limit=[Rate(1, per=1, key="n"), Rate(2, per=1, key="n")])
    app.task(limit=[Rate(1, per=1, key="n"), Rate(2, per=60, key="n")])


# Queues


async def test_weights_serve_every_queue_and_caps_hold(app: TrackedQueue) -> None:
    """CASE-62."""
    running = most = 0
    done: list[str] = []

    @app.task(name="high", queue="high")
    async def high() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done.append("high")

    @app.task(name="low", queue="low")
    async def low() -> None:
        done.append("low")

    await app.enqueue_many([high.call() for _ in range(400)] + [low.call() for _ in range(10)])
    async with running_worker(app, queues={"high": 3, "low": 1}, concurrency=4, queue_concurrency={"high": 2}):
        await wait_until(lambda: len(done) == 410, 20, "all jobs")
    assert most == 2
    assert len(done) - done[::-1].index("low") < 300, "the low ones did not wait for the end"


async def test_a_queue_at_its_cap_is_served_again_as_soon_as_it_has_room(app: TrackedQueue) -> None:
    """The wait that left it out ends by itself, long before a block time."""
    connections_of(app).settings = replace(app.settings, block=60.0)

    @app.task(name="other", queue="a")
    async def other() -> None: ...

    @app.task(name="capped", queue="b")
    async def capped(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with running_worker(app, queues=["a", "b"], queue_concurrency={"b": 1}):
        await (await capped.enqueue(0.3)).result(10)
        await (await capped.enqueue(0.0)).result(10)


async def test_wrong_queues_are_refused_at_the_start(app: TrackedQueue) -> None:
    @app.task(name="t")
    async def t() -> None: ...

    for options in (
        {"queues": {"default": 0}}, {"queues": {"default": "x"}}, {"queue_concurrency": {"default": 0}},
        {"queue_concurrency": {"other": 1}},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            await app.run_worker(handle_signals=False, **options)  # type: ignore[arg-type]


# Progress, checkpoints


async def test_progress_and_lines_are_streamed_and_stay_readable(app: TrackedQueue) -> None:
    @app.task(name="steps")
    async def steps() -> str:
        me = current_job()
        for n in range(3):
            await me.progress(n, 3, f"step {n}")
            await me.log(f"line {n}")
            await asyncio.sleep(0.2)
        return "done"

    job = await steps.enqueue()
    seen = []
    async with running_worker(app):
        async for info in job.watch():
            if info.progress:
                seen.append((info.progress.done, info.progress.note))
    # A watcher sees the newest state: of changes that come at once it may see only the last.
    assert seen[-1] == (2, "step 2") and set(seen) <= {(n, f"step {n}") for n in range(3)} and len(set(seen)) >= 2
    info = await job.info()
    assert [line.text for line in info.lines] == ["line 0", "line 1", "line 2"] and info.result == "done"


async def test_the_last_hundred_lines_stay(app: TrackedQueue) -> None:
    @app.task(name="chatty")
    async def chatty() -> None:
        for n in range(130):
            await current_job().log(str(n))

    async with running_worker(app):
        job = await chatty.enqueue()
        await job.result(10)
    assert [line.text for line in (await job.info()).lines] == [str(n) for n in range(30, 130)]


async def test_a_retry_resumes_where_the_checkpoint_is(app: TrackedQueue) -> None:
    done: list[int] = []

    @app.task(name="import", max_attempts=3, retry=QUICKLY)
    async def import_all() -> int:
        async for n in current_job().each(range(10), every=2):
            if n == 5 and current_job().attempt == 1:
                raise ValueError("in the middle")
            done.append(n)
        return len(done)

    @app.task(name="saved", max_attempts=2, retry=QUICKLY)
    async def saved() -> Any:
        if current_job().saved is None:
            await current_job().checkpoint({"page": 3, "ids": [1, 2]})
            raise ValueError("in the middle")
        return current_job().saved

    async with running_worker(app):
        assert await (await import_all.enqueue()).result(10) == 11
        assert done == [0, 1, 2, 3, 4, 4, *range(5, 10)], "what came after the last checkpoint came again"
        assert await (await saved.enqueue()).result(10) == {"page": 3, "ids": [1, 2]}


async def test_a_checkpoint_that_can_not_be_kept_is_refused(app: TrackedQueue) -> None:
    @app.task(name="bad", max_attempts=1)
    async def bad() -> None:
        await current_job().checkpoint({1, 2})

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="checkpoint"):
            await (await bad.enqueue()).result(10)


# Workflows


async def test_chain_group_and_fallback(app: TrackedQueue) -> None:
    @app.task(name="add", max_attempts=1)
    async def add(a: int, b: int = 1) -> int:
        if a < 0:
            raise ValueError("negative")
        return a + b

    @app.task(name="total")
    async def total(parts: list[int | None], scale: int = 1) -> int:
        return scale * sum(part or 0 for part in parts)

    @app.task(name="clean")
    async def clean(word: str) -> str:
        return word

    async with running_worker(app):
        last = await app.chain(add.call(1), add.step(10), add.step(b=100), add.options(timeout=5).step())
        assert await last.result(10) == 113
        group = await app.group([add.call(n) for n in range(300)], then=total.step(scale=2))
        assert group.then is not None and await group.then.result(20) == 2 * sum(range(1, 301))
        assert await group.results(10) == list(range(1, 301))

        failing = await app.group([add.call(-1), add.call(1)], then=total.step())
        assert failing.then is not None
        with pytest.raises(JobFailedError, match="comes after"):
            await failing.then.result(10)
        ignoring = await app.group([add.call(-1), add.call(1)], then=total.step(), on_failure="ignore")
        assert ignoring.then is not None and await ignoring.then.result(10) == 2

        bad, good = await add.enqueue(-1), await add.enqueue(1)
        needed = await clean.options(after=[bad], on_failure="fallback").enqueue("mend")
        unneeded = await clean.options(after=[good], on_failure="fallback").enqueue("mend")
        assert await needed.result(10) == "mend"
        await wait_until(lambda: _is(unneeded, State.CANCELLED), what="the fallback that is not needed")


async def test_a_batch_tells_its_progress_and_calls_back(app: TrackedQueue) -> None:
    @app.task(name="member", max_attempts=1)
    async def member(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    @app.task(name="told")
    async def told(results: list[int | None]) -> list[int | None]:
        return results

    batch = await app.batch([member.call(n) for n in range(5)], success=told.step(), complete=told.step())
    assert batch.success and batch.complete
    assert (await batch.progress()).done == 0
    async with running_worker(app):
        assert await batch.complete.result(10) == [0, 1, 2, None, 4]
        with pytest.raises(JobFailedError):
            await batch.success.result(10)
    found = await batch.progress()
    assert (found.done, found.unsuccessful, found.total) == (5, 1, 5)


@pytest.mark.parametrize("end", ["cancelled", "expired", "dead"])
async def test_a_fan_in_ends_however_a_member_ends(app: TrackedQueue, end: str) -> None:
    @app.task(name="member", max_attempts=1)
    async def member(n: int) -> int:
        if n == 1 and end == "dead":
            raise ValueError("dead")
        return n

    @app.task(name="then")
    async def then(results: list[int | None]) -> list[int | None]:
        return results

    options = {"expires": 0.01} if end == "expired" else {}
    calls = [member.call(0), member.options(**options).call(1), member.call(2)]
    group = await app.group(calls, then=then.step(), on_failure="ignore")
    assert group.then is not None and await group.then.status() is State.WAITING
    if end == "cancelled":
        await group.jobs[1].cancel()
    if end == "expired":
        await wait_until(lambda: _older(group.jobs[1], 0.02))
    async with running_worker(app):
        assert await group.then.result(10) == [0, None, 2]


async def test_a_retired_queue_and_task_leave_nothing(app: TrackedQueue) -> None:
    @app.task(name="legacy", queue="retired")
    async def legacy(n: int) -> None: ...

    @app.task(name="removed")
    async def removed(n: int) -> None: ...

    await app.enqueue_many([legacy.call(n) for n in range(1500)] + [removed.call(n) for n in range(1500)])
    await app.pause(task="removed")
    async with running_worker(app, queues=["default"]):
        await wait_until(lambda: _parked(app, 1500), what="them to be parked")
    await app.resume(task="legacy")
    assert await app.retire(queue="retired") == 1500 and await app.retire(task="removed") == 1500
    assert await connections_of(app).store.run(close("look")) == "paused"
    await app.resume(task="removed")
    assert await connections_of(app).store.run(close("look")) == ""
    without = [
        key
        for key in await look(app, "KEYS", f"{connections_of(app).keys.tag}:job:*")
        if (await connections_of(app).store.read(("PTTL", key)))[0] < 0
    ]
    assert (
        not without
        and b"retired"
        not in (await connections_of(app).store.read(("SMEMBERS", connections_of(app).keys.single("queues"))))[0]
    )
    for wrong in ({}, {"queue": "a", "task": "b"}):
        with pytest.raises(UsageError, match="queue= or task="):
            await app.retire(**wrong)


async def _parked(app: TrackedQueue, n: int) -> bool:
    return (await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("parked", "removed"))))[0] == n


async def test_a_fan_in_over_many_reads_their_results_as_it_goes(app: TrackedQueue) -> None:
    """More than one enqueue can name, and more than one reply brings; in a thread too, and again after a failed run."""

    @app.task(name="big")
    async def big(n: int) -> bytes:
        return bytes(n % 7 * 20_000)

    @app.task(name="sizes", max_attempts=2, retry=QUICKLY)
    async def sizes(results: Results[bytes]) -> list[int]:
        if current_job().attempt == 1:
            async for _ in results:
                break
            raise ValueError("in the middle")
        first = [len(one) async for one in results]
        assert [len(one) async for one in results] == first, "it can be read again"
        return first

    @app.task(name="in_thread")
    def in_thread(results: Results[bytes]) -> int:
        return sum(len(one) for one in results)

    @app.task(name="all_of_them")
    async def all_of_them(results: list[bytes]) -> int:
        return sum(map(len, results))

    expected = [n % 7 * 20_000 for n in range(600)]
    async with running_worker(app):
        group = await app.group([big.call(n) for n in range(600)], then=sizes.step())
        assert group.then is not None and await group.then.result(60) == expected
        for step in (in_thread.step(), all_of_them.step()):
            later = await app.group(group.jobs, then=step)
            assert later.then is not None and await later.then.result(60) == sum(expected)
            assert later.jobs == group.jobs
        await wait_until(lambda: _none_of(app, "after:*"), what="the results to be let go")


async def _none_of(app: TrackedQueue, pattern: str) -> bool:
    return not await look(app, "KEYS", f"{connections_of(app).keys.tag}:{pattern}")


async def test_a_fan_in_over_thousands_and_over_fan_ins(app: TrackedQueue) -> None:
    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    @app.task(name="total")
    async def total(results: Results[int]) -> int:
        return sum([value async for value in results])

    async with running_worker(app):
        group = await app.group([one.call(n) for n in range(3_000)], then=total.step())
        assert group.then is not None and await group.then.result(60) == sum(range(3_000))
        parts = [await app.group([one.call(n) for n in range(5)], then=total.step()) for _ in range(3)]
        over = await app.group([part.then for part in parts if part.then is not None], then=total.step())
        assert over.then is not None and await over.then.result(20) == 30
        assert await (await app.chain(over.then, one.step())).result(20) == 30


async def test_a_requeued_job_brings_back_what_follows_it(app: TrackedQueue) -> None:
    fails = True

    @app.task(name="one", max_attempts=1)
    async def one(n: int) -> int:
        if fails and n == 1:
            raise RuntimeError("not yet")
        return n

    @app.task(name="double")
    async def double(value: int) -> int:
        return value * 2

    @app.task(name="total")
    async def total(values: list[int]) -> int:
        return sum(values)

    async with running_worker(app):
        last = await app.chain(one.call(1), double.step(), double.step())
        group = await app.group([one.call(n) for n in range(3)], then=total.step())
        assert group.then is not None
        for job in (last, group.then):
            with pytest.raises(JobFailedError, match="comes after"):
                await job.result(10)
        fails = False
        dead = [job async for job in read_dead(connections_of(app).store, DeadFilter(), connections_of(app).cipher)]
        assert len(dead) == 2
        await connections_of(app).store.run(requeue([job.id for job in dead]))
        await wait_until(lambda: _has_state(last, State.SUCCEEDED), what="the chain to come back")
        assert await last.result(10) == 4 and await group.then.result(10) == 3


async def _has_state(job: Any, state: State) -> bool:
    return (await job.info()).state is state


async def test_with_every_place_taken_ends_are_told_all_the_same(app: TrackedQueue) -> None:
    """Nobody fetches then; a beat sees to it."""

    over = asyncio.Event()

    @app.task(name="nap")
    async def nap(n: int) -> None:
        await over.wait()

    @app.task(name="never")
    async def never(n: int) -> None: ...

    async with running_worker(app, concurrency=1):
        await nap.enqueue(0)
        group = await app.group([never.call(n) for n in range(300)], then=never.call(0))
        assert group.then is not None
        await asyncio.gather(*(job.cancel() for job in group.jobs))
        with pytest.raises(JobFailedError, match="comes after"):
            await group.then.result(20)
        over.set()


async def test_where_a_stream_of_results_can_be_taken(app: TrackedQueue) -> None:
    with pytest.raises(ArgumentError, match="first parameter"):

        @app.task(name="second")
        async def second(n: int, results: Results[int]) -> None: ...

    with pytest.raises(UsageError, match="take a list"):
        app.task(name="apart", isolate="process")(_apart)

    @app.task(name="stream")
    async def stream(results: Results[int]) -> int:
        return sum([value async for value in results])

    with pytest.raises(ArgumentError, match="step of a chain or a group"):
        await stream.enqueue([1, 2])  # type: ignore[arg-type]
    assert await stream(Results.of([1, 2])) == 3
    assert list(Results.of("ab")) == ["a", "b"]


def _apart(results: Results[int]) -> None: ...


async def test_what_a_workflow_refuses(app: TrackedQueue) -> None:
    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    @app.task(name="none")
    async def none() -> int:
        return 1

    with pytest.raises(UsageError, match="at most 100000"):
        await app.group([one.call(1)] * 100_001)
    with pytest.raises(UsageError, match=r"task.call"):
        await app.group([one.step()])  # type: ignore[list-item]
    with pytest.raises(ArgumentError):
        await app.chain(one.call(1), none.step())
    with pytest.raises(Exception, match="no record"):
        await one.options(after=["nobody"]).enqueue(1)


async def test_a_waiting_job_can_be_cancelled_and_a_finished_dependency_does_not_wait(app: TrackedQueue) -> None:
    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    first = await one.enqueue(1)
    waiting = await one.options(after=[first]).enqueue(2)
    assert await waiting.cancel() and await waiting.status() is State.CANCELLED
    async with running_worker(app):
        await first.result(10)
        later = await one.options(after=[first], delay=0.05).enqueue(3)
        assert await later.result(10) == 3


# Context


async def test_lifespan_context_middleware_headers_and_carried_variables(app: TrackedQueue) -> None:
    request_id: ContextVar[str] = ContextVar("request_id")
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, int]]:
        log.append("up")
        yield {"answer": 42}
        log.append("down")

    producer_of(app).definitions.hooks.lifespan, producer_of(app).definitions.hooks.carry = lifespan, (request_id,)

    @app.middleware
    async def outer(job: Any, call_next: Any) -> Any:
        log.append(f"> {job.task}")
        result = await call_next()
        log.append(f"< {result}")
        return result

    @app.enqueue_middleware
    async def stamp(enqueueing: Enqueueing, call_next: Any) -> Any:
        enqueueing.headers["tenant"] = "t1"
        job = await call_next()
        log.append(f"stored {enqueueing.task}")
        return job

    @app.task(name="ask")
    async def ask(ctx: JobContext[dict[str, int]], n: int) -> str:
        return f"{ctx.state['answer'] + n} {ctx.job.headers['tenant']} {request_id.get()} {current_job().state is ctx.state}"

    token = request_id.set("r-1")
    job = await ask.options(headers={"context": "a user's own", "tick_ms": "too"}).enqueue(1)
    (many,) = await app.enqueue_many([ask.call(2)])
    sync = await asyncio.to_thread(ask.enqueue_sync, 3)
    assert log == ["stored ask"] * 3
    request_id.reset(token)  # else the worker of this very context would know it
    async with running_worker(app):
        assert await job.result(10) == "43 t1 r-1 True"
        assert await many.result(10) == "44 t1 r-1 True"
        assert await sync.result(10) == "45 t1 r-1 True"
    assert log[3] == "up" and log[-1] == "down" and "> ask" in log and "< 43 t1 r-1 True" in log
    with pytest.raises(UsageError, match="directly"):
        await ask(1)  # type: ignore[call-arg, arg-type]


async def test_an_app_includes_the_tasks_of_others(app: TrackedQueue) -> None:
    part = TrackedQueue()

    @part.every(3600)
    @part.task(name="part")
    async def of_part() -> str:
        return "part"

    app.include(part)
    assert "part" in app.schedules
    async with running_worker(app):
        assert await (await of_part.enqueue()).result(10) == "part"
    with pytest.raises(UsageError, match="included"):
        app.include(part)


# Plain functions


async def test_a_plain_def_runs_in_a_thread_and_may_report(app: TrackedQueue) -> None:
    @app.task(name="blocking")
    def blocking(n: int) -> tuple[int, bool]:
        anyio.from_thread.run(current_job().progress, n)
        return n, threading.current_thread() is threading.main_thread()

    async with running_worker(app):
        job = await blocking.enqueue(3)
        assert await job.result(10) == (3, False)
        progress = await job.progress()
        assert progress is not None and progress.done == 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
async def test_whatever_a_thread_raises_is_that_jobs_outcome(app: TrackedQueue, error: type[BaseException]) -> None:
    """CASE-33 for a plain def: the worker and its other jobs go on."""

    @app.task(name="exits", max_attempts=1)
    def exits() -> None:
        raise error(3)

    @app.task(name="fine")
    def fine() -> int:
        return 1

    async with running_worker(app):
        with pytest.raises(JobFailedError) as found:
            await (await exits.enqueue()).result(10)
        assert found.value.error_type == error.__name__
        assert await (await fine.enqueue()).result(10) == 1


async def test_a_job_that_timed_out_while_it_waited_for_a_thread_never_begins(app: TrackedQueue) -> None:
    connections_of(app).settings = replace(app.settings, threads=1)
    began: list[int] = []

    @app.task(name="slow", max_attempts=1)
    def slow(n: int) -> None:
        began.append(n)
        time.sleep(0.4)

    async with running_worker(app):
        first = await slow.enqueue(0)
        await wait_until(lambda: began == [0], what="the first")
        second = await slow.options(timeout=0.05).enqueue(1)
        with pytest.raises(JobFailedError, match="timeout"):
            await second.result(10)
        await first.result(10)
        await (await slow.enqueue(2)).result(10)
    assert began == [0, 2]


async def test_keys_of_a_step_are_made_of_its_own_arguments(app: TrackedQueue) -> None:
    @app.task(name="first")
    async def first() -> int:
        return 1

    @app.task(name="keyed", unique=Unique(by="tenant"))
    async def keyed(value: int, tenant: str = "none") -> str:
        return tenant

    @app.task(name="unclear", unique="until_done")
    async def unclear(value: int) -> None: ...

    jobs = [await app.chain(first.call(), keyed.step(tenant)) for tenant in ("a", "b")]
    assert len({job.id for job in jobs}) == 2
    with pytest.raises(UsageError, match="by="):
        await app.chain(first.call(), unclear.step())
    async with running_worker(app):
        assert [await job.result(10) for job in jobs] == ["a", "b"]


async def test_signals_take_any_reason_and_each_is_used_once(app: TrackedQueue) -> None:
    @app.task(name="reasons")
    async def reasons() -> None:
        raise Discard(ValueError("an error as reason"))

    @app.task(name="twice", max_attempts=1)
    async def twice() -> None:
        for _ in range(2):
            async for _n in current_job().each(range(2)):
                pass

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="an error as reason"):
            await (await reasons.enqueue()).result(10)
        with pytest.raises(JobFailedError, match="used before"):
            await (await twice.enqueue()).result(10)
    with pytest.raises(UsageError, match="on_exhausted"):
        app.task(tracked=False, on_exhausted=_never)


async def _never(job: Any, error: BaseException) -> None: ...


# What is left


async def test_no_key_of_a_job_stays_whatever_became_of_it(app: TrackedQueue) -> None:
    """CASE-56, over all features: whatever has no expiry in the end belongs to no job and no instance."""
    app = TrackedQueue(**_same_place(app), result_ttl=0.5, block=0.5, cancel_grace=0.5, concurrency=30)
    app.limit_queue("narrow", Concurrency(3, key="n"))
    snoozed: set[int] = set()

    @app.every(1, name="beat")
    @app.task(name="ticking")
    async def ticking() -> None: ...

    @app.task(name="plain", max_attempts=2, retry=QUICKLY)
    async def plain(what: str = "", n: int = 0) -> int:
        match what:
            case "raise":
                raise ValueError(n)
            case "discard":
                raise Discard("no")
            case "dead":
                raise Dead("no")
            case "snooze" if n not in snoozed:
                snoozed.add(n)
                raise Snooze(0.01)
            case "sleep":
                await asyncio.sleep(30)
            case "note":
                await current_job().progress(1, 2)
                await current_job().checkpoint({"n": n})
                await current_job().log("a line")
        return n

    @app.task(name="bound", unique=Unique(by="n"), limit=[Rate(1000, per=0.2, key="n"), Concurrency(2)], fair_by="n")
    async def bound(n: int) -> int:
        return n

    @app.task(name="untracked", tracked=False)
    async def untracked() -> None: ...

    @app.task(name="narrow", queue="narrow")
    async def narrow(n: int) -> None: ...

    @app.task(name="sum")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    async with app, running_worker(app):
        jobs = [await plain.enqueue(what, n) for n in range(20) for what in ("", "raise", "discard", "snooze", "note")]
        jobs += [await bound.enqueue(n % 7) for n in range(60)]
        jobs += [await app.options(queue="default").enqueue("bound", n) for n in range(20, 30)]
        jobs += [await narrow.options(delay=0.05).enqueue(n % 3) for n in range(20)]
        jobs += [await plain.options(timeout=0.05, max_attempts=1).enqueue("sleep") for _ in range(3)]
        jobs.append(await plain.options(expires=0.001, delay=0.2).enqueue())
        for _ in range(20):
            await untracked.enqueue()
        group = await app.group([plain.call("", n) for n in range(10)], then=total.step())
        chain = await app.chain(plain.call("discard"), plain.step())
        running = [await plain.enqueue("sleep") for _ in range(3)]
        queued = await plain.options(queue="elsewhere").enqueue()
        for job in (*running, queued):
            await job.cancel()
        dead = await plain.enqueue("dead")
        for job in (*jobs, group.then, chain, *running, dead):
            with contextlib.suppress(JobFailedError, JobCancelledError):
                await job.result(30)
        await connections_of(app).store.run(purge([job.id for job in (dead, *jobs)]))
    async with TrackedQueue(**_same_place(app)) as last:
        # What is cancelled while it waits leaves its list with the next fetch.
        for queue in ("default", "narrow", "elsewhere"):
            last.task(name=queue, queue=queue)(_nothing)
        await last.run_worker(burst=True, handle_signals=False)
        kinds = set()
        for raw in await look(last, "KEYS", connections_of(app).keys.tag.replace("{", "[{]") + ":*"):
            ttl = await look(last, "PTTL", raw)
            if ttl == -1:
                kinds.add(raw.decode().removeprefix(connections_of(app).keys.tag + ":"))
    # A marker that nobody has waited for stays until the queue's next fetch; there is one a queue.
    kinds -= {f"wake:{queue}" for queue in ("default", "narrow", "elsewhere")}
    assert kinds <= {"queues", "shards", "limits", "contact", "timer", "schedules", "schedule:beat"}, kinds


async def _nothing() -> None: ...
