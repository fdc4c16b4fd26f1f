"""Checked by mypy --strict and by pyright's rules: the signature survives the decorator, and wrong calls are refused."""

from datetime import timedelta
from typing import Annotated, Any, TypedDict, Unpack, assert_type

from tracked_queue import (
    CancelWord,
    Concurrency,
    DeadFilter,
    DeadJob,
    DeadOutcome,
    Depends,
    Group,
    InstanceReport,
    Job,
    JobContext,
    JobInfo,
    PreparedCall,
    Progress,
    QueueReport,
    State,
    Step,
    Task,
    TrackedQueue,
    Unique,
    injected,
)
from tracked_queue.settings import Durability

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


# A context parameter is the worker's, a plain def stays one, steps and workflows.


@app.task(name="ctx")
async def with_context(ctx: JobContext[int], a: int, b: str = "") -> int:
    assert_type(ctx.state, int)
    return a


@app.cron("0 3 * * *")
@app.task(limit=Concurrency(1), unique="until_done")
def blocking(a: int) -> str:
    return str(a)


async def right_too() -> None:
    assert_type(await with_context.enqueue(1, "x"), Job[int])
    assert_type(await with_context.options(expires=timedelta(seconds=1)).enqueue(1), Job[int])
    assert_type(blocking(1), str)
    assert_type(await blocking.enqueue(1), Job[str])
    assert_type(with_context.step("x"), Step)
    group = await app.group([blocking.call(1)], then=with_context.step())
    assert_type(group, Group)
    async for info in (await blocking.enqueue(1)).watch():
        assert_type(info, JobInfo)
    assert_type(await (await blocking.enqueue(1)).progress(), Progress | None)


async def wrong_too() -> None:
    await with_context.enqueue("x")  # type: ignore[arg-type]
    await with_context.enqueue(1, c=2)  # type: ignore[call-arg]
    await blocking.enqueue("x")  # type: ignore[arg-type]
    app.task(limit=3)  # type: ignore[arg-type]
    app.task(retry="often")  # type: ignore[arg-type]
    app.task(unique="until_strated")  # type: ignore[arg-type]
    app.task(isolate="thread")  # type: ignore[arg-type]
    Unique(until="dome")  # type: ignore[arg-type]
    Unique(conflict="replaces")  # type: ignore[arg-type]
    app.every(60, missed="never")  # type: ignore[arg-type]
    with_context.options(durability="disk")  # type: ignore[arg-type]
    with_context.options(on_failure="stop")  # type: ignore[arg-type]
    TrackedQueue(heartbeat_til=3)  # type: ignore[call-arg]
    TrackedQueue(heartbeat_ttl="3")  # type: ignore[arg-type]
    TrackedQueue(durability="disk")  # type: ignore[arg-type]
    app.configure(concurency=3)  # type: ignore[call-arg]
    await app.operator.requeue(matching="mail")  # type: ignore[arg-type]


async def right_for_operators() -> None:
    assert_type(await app.operator.dead(DeadFilter(task="x"), limit=5), list[DeadJob])
    assert_type(await app.operator.requeue(["a"], rate=20), DeadOutcome)
    assert_type(await app.operator.cancel(["a"]), dict[str, CancelWord])
    assert_type((await app.operator.queues()).queues, tuple[QueueReport, ...])
    assert_type(await app.operator.instances(), list[InstanceReport])
    assert_type(await app.operator.quiet("web-1"), list[str])
    assert_type(TrackedQueue(heartbeat_ttl=timedelta(seconds=30), durability="fsync").settings.durability, Durability)


def names(task: Task[[int], str]) -> str:
    return task.name


class Filters(TypedDict, total=False):
    """Named arguments of a task."""

    country: str
    most: int


async def session() -> str:
    return "session"


@app.task()
async def report(
    *ids: int, session: Annotated[str, Depends(session)] = injected(), **filters: Unpack[Filters]
) -> list[int]:
    return list(ids)


@app.task()
def plain(n: int, text: str = "x") -> bool:
    return bool(n)


def any_job(job: Job[object]) -> str:
    return job.id


async def kinds() -> None:
    job = await report.enqueue(1, 2, country="de")
    assert_type(job, Job[list[int]])
    any_job(job)
    assert_type(plain(1), bool)
    assert_type(await (await plain.enqueue(1)).result(), bool)
    assert_type(plain.enqueue_sync(1, text="y").result_sync(), bool)
    await report.enqueue("1")  # type: ignore[arg-type]
    await report.enqueue(1, most="x")  # type: ignore[arg-type]
    plain.enqueue_sync(1, 2)  # type: ignore[arg-type]
