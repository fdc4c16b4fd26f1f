"""`crash_everywhere`: each point at which a job waits, and what goes on after it: nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import pytest

from tracked_queue import Depends, Snooze, TrackedQueue, Unique, UsageError, current_job, injected
from tracked_queue.testing import QueueKit

app = TrackedQueue()
log: list[str] = []


@pytest.fixture
def queue_app() -> TrackedQueue:
    return app


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()


async def tick() -> None:
    await asyncio.sleep(0)


@app.task(name="steps")
async def steps(n: int) -> str:
    log.append("a")
    try:
        await tick()
        log.append("b")
        await tick()
        log.append("c")
    except BaseException:
        log.append("except")
        raise
    finally:
        log.append("finally")
    return "done"


async def test_every_point_is_crashed_once_and_nothing_goes_on_after_it(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        seen = []
        whole = ["a", "b", "c", "finally"]
        async for crash in kit.crash_everywhere(steps.call(1)):
            seen.append((crash.point, crash.is_last, log[: -len(whole)]))
            assert log[-len(whole) :] == whole, crash
            log.clear()
        assert seen == [(0, False, []), (1, False, ["a"]), (2, False, ["a", "b"]), (3, True, whole)]
    import gc

    gc.collect()
    assert log == []


async def test_it_says_where_a_job_was_crashed(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        where = [f"{crash!r}" async for crash in kit.crash_everywhere(steps.call(1))]  # as pytest prints it
    assert where[0] == "crashed before the job started" and "had returned" in where[-1]
    assert all("in tick" in text and "test_crashes.py:" in text for text in where[1:-1])


paid: list[int] = []
sent: list[int] = []


@app.task(name="pay")
async def pay(order: int) -> None:
    if order not in paid:
        await tick()
        paid.append(order)
    await tick()
    sent.append(order)  # not idempotent
    await tick()


async def test_what_is_not_idempotent_is_seen(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        doubled = []
        async for crash in kit.crash_everywhere(pay.call(7)):
            assert paid == [7], crash
            if sent != [7]:
                doubled.append(crash.point)
            paid.clear()
            sent.clear()
        assert doubled == [3, 4]


@contextlib.asynccontextmanager
async def resource(name: str) -> AsyncIterator[str]:
    log.append(f"open {name}")
    try:
        yield name
    finally:
        log.append(f"close {name}")


async def session() -> AsyncIterator[str]:
    async with resource("session") as opened:
        await tick()
        yield opened
        log.append("commit")


@app.task(name="uses")
async def uses(one: Annotated[str, Depends(session)] = injected()) -> None:
    async with resource("mine"):
        await tick()


async def test_what_a_job_has_open_stays_open_as_after_a_kill(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        before = []
        whole = ["open session", "open mine", "close mine", "commit", "close session"]
        async for crash in kit.crash_everywhere(uses.call()):
            assert log[-len(whole) :] == whole, crash
            before.append(log[: -len(whole)])
            log.clear()
        assert before == [[], ["open session"], ["open session", "open mine"], whole]


@app.task(name="children")
async def children() -> None:
    async def child(name: str) -> None:
        try:
            await tick()
            log.append(name)
            await asyncio.sleep(0.01)
            log.append(f"{name} later")
        finally:
            log.append(f"{name} ends")

    async with asyncio.TaskGroup() as group:
        group.create_task(child("x"))
        await tick()
        async with anyio.create_task_group() as inner:
            inner.start_soon(child, "y")
            await asyncio.sleep(0.005)


async def test_tasks_that_a_job_has_started_stop_with_it(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        whole = 6
        points = 0
        async for crash in kit.crash_everywhere(children.call()):
            points += 1
            await asyncio.sleep(0.03)  # whatever goes on would be seen
            broken, ran = log[:-whole], log[-whole:]
            assert sorted(ran) == ["x", "x ends", "x later", "y", "y ends", "y later"], (crash, log)
            if not crash.is_last:
                assert not any("later" in line or "ends" in line for line in broken), (crash, log)
            log.clear()
        assert points >= 4


@app.task(name="plain")
def plain() -> None:
    log.append("ran")


async def test_a_plain_function_has_two_points(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        runs = []
        async for crash in kit.crash_everywhere(plain.call()):
            runs.append((crash.is_last, len(log)))
            log.clear()
        assert runs == [(False, 1), (True, 2)]


@app.task(name="goes on")
async def goes_on() -> None:
    saved = current_job().saved or 0
    for step in range(saved, 3):
        log.append(f"step {step}")
        await current_job().checkpoint(step + 1)


async def test_checkpoints_and_ids_of_one_s_own(queue_kit: QueueKit) -> None:
    async with queue_kit as kit:
        most = 0
        async for crash in kit.crash_everywhere(goes_on.options(id="mine", known_for=60).call()):
            assert set(log) == {"step 0", "step 1", "step 2"}, crash
            most = max(most, len(log))
            log.clear()
        assert most <= 4, "each crash costs one step at most"


@app.task(name="for ever")
async def for_ever() -> None:
    while True:
        await tick()


@app.task(name="snoozes")
async def snoozes() -> None:
    await tick()
    raise Snooze(60)


@app.task(name="window", unique=Unique(window=60))
async def window() -> None:
    await tick()


async def generator() -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        log.append("closed")


@app.task(name="leaves")
async def leaves() -> None:
    await tick()
    async for _ in generator():
        break
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_job_that_was_not_there_passes_no_point_unseen(queue_kit: QueueKit) -> None:
    async def points(call: Any) -> int:
        count = 0
        async for _ in kit.crash_everywhere(call, most=30):
            count += 1
        return count

    async with queue_kit as kit:
        for call, says in ((window.call(), "unique key"), (plain.options(delay=60).call(), "was not taken")):
            with pytest.raises(UsageError, match=says):
                await points(call)
        await app.pause(task="plain")
        with pytest.raises(UsageError, match="was not taken"):
            await points(plain.call())
        await app.resume(task="plain")
        assert await points(snoozes.call()) == 3, "its end is the last point"
        log.clear()
        assert await points(leaves.call()) >= 4
        assert "closed" in log


async def test_wrong_uses_are_named(queue_kit: QueueKit) -> None:
    other = TrackedQueue()

    @other.task(name="theirs")
    async def theirs() -> None: ...

    async def crashed(kit: QueueKit, call: Any, **more: Any) -> None:
        async for _ in kit.crash_everywhere(call, **more):
            pass

    async with queue_kit as kit:
        for call, more, says in (
            (theirs.call(), {}, "not a call of a task of this app"), (steps.call(1), {"most": 0}, "most"),
            (steps.call(1), {"most": 2}, "more than 2 points"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=says):
                await crashed(kit, call, **more)
        await steps.enqueue(1)
        with pytest.raises(UsageError, match="waits already"):
            await crashed(kit, steps.call(1))
