"""What docs/how-to/limits.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from tests.features.common import QUICKLY, has_state, same_place
from tests.harness import running_worker, wait_until
from tracked_queue import (
    Concurrency,
    DuplicateJobError,
    Fixed,
    JobCancelledError,
    JobFailedError,
    Rate,
    State,
    TrackedQueue,
    Unique,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of


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
    await wait_until(lambda: has_state(begun, State.SCHEDULED), what="its first attempt to fail")
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
    newer = TrackedQueue(**same_place(app))
    define(newer, 4)
    async with newer, running_worker(newer):
        for job in jobs:
            await newer.job(job.id).result(10)
    assert top == 4


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
