"""Checked by mypy --strict: the signature survives the decorator, and wrong calls are refused."""

from typing import Any, assert_type

from tracked_queue import Job, JobInfo, PreparedCall, State, Task, TrackedQueue

app = TrackedQueue()


@app.task(queue="mail", timeout=30, max_attempts=5)
async def send_welcome(user_id: int, *, locale: str = "en") -> str:
    return f"{user_id} {locale}"


async def right() -> None:
    job = await send_welcome.enqueue(42, locale="de")
    assert_type(job, Job[str])
    assert_type(await job.result(timeout=10), str)
    assert_type(await job.status(), State)
    assert_type(await job.info(), JobInfo)
    assert_type(await job.cancel(), bool)
    assert_type(job.created, bool)
    assert_type(await send_welcome.options(delay=60, id="x").enqueue(42), Job[str])
    assert_type(send_welcome.enqueue_sync(42), Job[str])
    assert_type(send_welcome.call(42), PreparedCall[str])
    assert_type(await send_welcome(42), str)
    assert_type(await app.enqueue("elsewhere", 1, a=2), Job[Any])
    assert_type(await app.enqueue_many([send_welcome.call(1)]), list[Job[Any]])
    assert_type(app.job("x"), Job[Any])


async def wrong() -> None:
    await send_welcome.enqueue("42")  # type: ignore[arg-type]
    await send_welcome.enqueue()  # type: ignore[call-arg]
    await send_welcome.enqueue(1, c=2)  # type: ignore[call-arg]
    await send_welcome.options(delay=60).enqueue("42")  # type: ignore[arg-type]
    await send_welcome.options(daley=60).enqueue(42)  # type: ignore[call-arg]
    send_welcome.enqueue_sync("42")  # type: ignore[arg-type]
    send_welcome.call(1, locale=2)  # type: ignore[arg-type]


def names(task: Task[[int], str]) -> str:
    return task.name
