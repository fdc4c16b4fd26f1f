"""What docs/how-to/workflows.md promises, in a worker of this very loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.features.common import QUICKLY, has_state, is_older
from tests.harness import running_worker, wait_until
from tests.rights import look
from tracked_queue import (
    ArgumentError,
    EnqueueUnavailableError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    Results,
    State,
    TrackedQueue,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of, producer_of
from tracked_queue.protocol.transitions import close, requeue
from tracked_queue.reports.dead import DeadFilter, read_dead


async def _parked(app: TrackedQueue, n: int) -> bool:
    return (await connections_of(app).store.read(("LLEN", connections_of(app).keys.named("parked", "removed"))))[0] == n


async def _none_of(app: TrackedQueue, pattern: str) -> bool:
    return not await look(app, "KEYS", f"{connections_of(app).keys.tag}:{pattern}")


async def _has_state(job: Any, state: State) -> bool:
    return (await job.info()).state is state


def _apart(results: Results[int]) -> None: ...


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
        await wait_until(lambda: has_state(unneeded, State.CANCELLED), what="the fallback that is not needed")


async def test_a_workflow_that_is_sent_again_makes_no_second_one(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply was lost: the calls are sent again, as the error says, and the steps are known by what they follow."""

    @app.task()
    async def one(n: int = 1) -> int:
        return n

    @app.task()
    async def many(values: list[int]) -> int:
        return sum(values)

    producer = producer_of(app)
    store = producer._store_many
    lost = iter([True, False] * 3)

    async def unsure(calls: Any, *, sync: bool = False) -> Any:
        jobs = await store(calls, sync=sync)
        if next(lost):
            raise EnqueueUnavailableError("no reply", True, tuple(job.id for job in jobs))
        return jobs

    monkeypatch.setattr(producer, "_store_many", unsure)
    first = one.call(1)
    last: list[Any] = []
    for send in (
        lambda: app.chain(first, one.step(), one.step()), lambda: app.group([first, one.call(2)], then=many.step()),
        lambda: app.batch([first], success=many.step(), complete=many.step()),
    ):  # fmt: skip
        with pytest.raises(EnqueueUnavailableError):
            await send()
        last.append(await send())
    waiting = (await app.operator.jobs("waiting")).rows
    assert len(waiting) == 2 + 1 + 2
    monkeypatch.undo()
    again = await app.chain(first, one.step())  # another chain with the same call at its head
    async with running_worker(app):
        assert await again.result(10) == 1 and await last[0].result(10) == 1 and await last[1].then.result(10) == 3


async def test_workflows_and_results_without_an_event_loop(app: TrackedQueue) -> None:
    @app.task(max_attempts=1)
    async def double(n: int) -> int:
        if n < 0:
            raise ValueError("below zero")
        return n * 2

    @app.task()
    async def total(values: list[int | None]) -> int:
        return sum(value or 0 for value in values)

    def program() -> None:
        assert app.chain_sync(double.call(1), double.step(), double.step()).result_sync(10) == 8
        group = app.group_sync([double.call(1), double.call(2)], then=total.step())
        assert group.then is not None and group.then.result_sync(10) == 6
        batch = app.batch_sync([double.call(1), double.call(-1)], complete=total.step())
        assert batch.complete is not None and batch.complete.result_sync(10) == 2
        with pytest.raises(JobFailedError, match="below zero"):
            batch.jobs[1].result_sync(10)
        waits = double.options(delay=60).enqueue_sync(1)
        with pytest.raises(TimeoutError, match="within 0.05 s"):
            waits.result_sync(0.05)
        assert waits.cancel_sync() and not waits.cancel_sync()
        with pytest.raises(JobCancelledError):
            waits.result_sync(1)
        with pytest.raises(JobNotFoundError):
            app.job("none").result_sync(1)

    async with running_worker(app):
        await asyncio.to_thread(program)


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
        await wait_until(lambda: is_older(group.jobs[1], 0.02))
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
