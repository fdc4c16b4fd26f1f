"""What docs/how-to/dependencies.md promises, in a worker of this very loop, with FastAPI's `Depends` and ours."""

# mypy: disable-error-code="call-arg, arg-type"

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import anyio
import pytest
from fastapi import BackgroundTasks, Header, Query, Request, Security
from fastapi import Depends as FastDepends

from tests.features.common import has_state
from tests.harness import running_worker, wait_until
from tracked_queue import (
    ArgumentError,
    CurrentJob,
    Depends,
    JobContext,
    JobFailedError,
    State,
    TaskDefinitionError,
    TrackedQueue,
    injected,
)

log: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()


class Session:
    """Something with a beginning and an end."""

    def __init__(self) -> None:
        self.end = "open"


async def session() -> AsyncIterator[Session]:
    made = Session()
    log.append("open")
    try:
        yield made
    except BaseException as error:
        made.end = type(error).__name__
        raise
    else:
        made.end = "commit"
    finally:
        log.append(made.end)


def in_thread() -> Iterator[int]:
    here = threading.get_ident()
    log.append(("enter", here))
    yield here
    log.append(("leave", threading.get_ident()))


async def about(job: CurrentJob, context: JobContext[Any]) -> tuple[str, str]:
    return job.id, context.job.id


class Page:
    def __init__(self, size: int = 10) -> None:
        self.size = size


class Callable_:
    async def __call__(self, base: Annotated[Session, Depends(session)]) -> Session:
        return base


@pytest.mark.parametrize("mark", [Depends, FastDepends])
async def test_what_a_task_depends_on_is_made_for_each_run(app: TrackedQueue, mark: Any) -> None:
    @app.task()
    async def work(
        n: int,
        more: int = 1,
        first: Annotated[Session, mark(session)] = injected(),
        page: Page = mark(),  # noqa: B008
        *,
        second: Annotated[Session, mark(session)],
        other: Annotated[Session, mark(session, use_cache=False)],
        nested: Annotated[Session, mark(Callable_())],
        who: Annotated[tuple[str, str], mark(about)],
        bound: int = mark(partial(abs, -3)),
    ) -> list[Any]:
        log.append("run")
        return [n + more, first is second, first is other, nested is first, who[0] == who[1], page.size, bound]

    async with running_worker(app):
        assert await (await work.enqueue(1, more=2)).result(10) == [3, True, False, True, True, 10, 3]
    assert log == ["open", "open", "run", "commit", "commit"]
    with pytest.raises(ArgumentError, match="no such argument"):
        await work.enqueue(1, first=None)
    with pytest.raises(ArgumentError, match="positional"):
        await work.enqueue(1, 2, None)


async def test_plain_functions_run_in_the_job_s_thread(app: TrackedQueue) -> None:
    @app.task()
    def plain(here: Annotated[int, Depends(in_thread)] = injected()) -> bool:
        return here == threading.get_ident()

    @app.task()
    async def waits(here: Annotated[int, Depends(in_thread)] = injected()) -> bool:
        return here != threading.get_ident()

    async with running_worker(app):
        assert await (await plain.enqueue()).result(10) and await (await waits.enqueue()).result(10)
    threads = [there for _, there in log]
    assert threads[0] == threads[1] and threads[2] == threads[3] and threading.get_ident() not in threads


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


async def test_what_is_left_before_the_outcome_decides_it(app: TrackedQueue) -> None:
    async def commits() -> AsyncIterator[str]:
        yield "x"
        raise OSError("the commit failed")

    async def swallows() -> AsyncIterator[None]:
        with contextlib.suppress(Exception):
            yield

    def swallows_in_thread() -> Iterator[None]:
        with contextlib.suppress(Exception):
            yield

    async def breaks() -> None:
        raise LookupError("no database")

    def make(name: str, dependency: Callable[..., Any]) -> Any:
        @app.task(name=name, max_attempts=1)
        async def task(fail: bool, *, x: Annotated[Any, Depends(dependency)]) -> str:
            if fail:
                raise ValueError("mine")
            return "done"

        return task

    async with running_worker(app):
        for name, dependency, fail, says in (
            ("a", commits, False, "the commit failed"), ("b", swallows, True, "mine"), ("c", swallows_in_thread, True, "mine"),
            ("d", breaks, False, "no database"), ("e", session, True, "mine"),
        ):  # fmt: skip
            with pytest.raises(JobFailedError, match=says):
                await (await make(name, dependency).enqueue(fail)).result(10)
    assert log == ["open", "ValueError"]


async def test_a_cancelled_or_late_job_leaves_what_it_has(app: TrackedQueue) -> None:
    began = asyncio.Event()

    @app.task(max_attempts=1)
    async def waits(one: Annotated[Session, Depends(session)] = injected()) -> None:
        began.set()
        await anyio.sleep_forever()

    async with running_worker(app):
        job = await waits.enqueue()
        await began.wait()
        await job.cancel()
        await wait_until(lambda: has_state(job, State.CANCELLED))
        late = await waits.options(timeout=0.05).enqueue()
        await wait_until(lambda: has_state(late, State.DEAD))
    assert log == ["open", "CancelledError"] * 2


async def test_shared_ones_are_made_once_for_a_process(app: TrackedQueue) -> None:
    tasks = []

    async def engine() -> AsyncIterator[int]:
        log.append("engine")
        tasks.append(asyncio.current_task())
        async with anyio.create_task_group() as group:  # entered and left by one task
            group.start_soon(anyio.sleep, 0)
            yield 7
        tasks.append(asyncio.current_task())
        log.append("engine left")

    def plain_engine(base: Annotated[int, Depends(engine, shared=True)]) -> int:
        return base + 1

    failures = iter([True])

    async def flaky() -> str:
        if next(failures, False):
            raise OSError("not yet")
        return "up"

    @app.task()
    async def work(n: int, *, engine: Annotated[int, Depends(plain_engine, shared=True)]) -> int:
        return n + engine

    @app.task(max_attempts=2, retry=[0])
    async def tries(*, state: Annotated[str, Depends(flaky, shared=True)]) -> str:
        return state

    async with running_worker(app):
        jobs = [await work.enqueue(n) for n in range(20)]
        assert [await job.result(10) for job in jobs] == [n + 8 for n in range(20)]
        assert await (await tries.enqueue()).result(10) == "up"
        assert log == ["engine"]
    assert log == ["engine", "engine left"] and tasks[0] is tasks[1]


async def test_overrides_take_a_dependency_s_place(app: TrackedQueue) -> None:
    async def fake(job: CurrentJob) -> str:
        return f"fake {job.attempt}"

    @app.task()
    async def work(*, one: Annotated[Any, FastDepends(session)]) -> Any:
        return one

    app.dependency_overrides[session] = fake
    async with running_worker(app):
        assert await (await work.enqueue()).result(10) == "fake 1"
    assert log == []


def needs_request(request: Request) -> None: ...
def needs_header(token: Annotated[str, Header()]) -> None: ...
def needs_query(q: str = Query("x")) -> None: ...
def needs_background(tasks: BackgroundTasks) -> None: ...
def needs_argument(order: int) -> None: ...
def needs_request_below(x: Annotated[None, Depends(needs_request)]) -> None: ...
def needs_security(x: Annotated[None, Security(session, scopes=["a"])]) -> None: ...
def needs_itself(x: Annotated[None, Depends("placeholder")]) -> None: ...


needs_itself.__annotations__["x"] = Annotated[None, Depends(needs_itself)]


@pytest.mark.parametrize(
    "dependency",
    [
        needs_request, needs_header, needs_query, needs_background, needs_argument, needs_request_below, needs_security, needs_itself,
        5,
    ],
)  # fmt: skip
def test_what_a_job_does_not_have_is_refused_at_the_decorator(dependency: Any) -> None:
    app = TrackedQueue()

    async def work(*, x: Any = Depends(dependency)) -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"request|depends on itself|takes a function"):
        app.task()(work)
    assert not len(app.tasks)


def test_wrong_places_are_refused_at_the_decorator() -> None:
    app = TrackedQueue()

    async def before(x: Annotated[Any, Depends(session)], n: int) -> None: ...
    async def rest(x: Annotated[Any, Depends(session)], *n: int) -> None: ...
    async def by_place(x: Annotated[Any, Depends(session)], /) -> None: ...
    async def no_mark(x: Any = injected()) -> None: ...
    async def request(request: Request) -> None: ...
    async def header(token: str = Header()) -> None: ...
    async def shared(x: Annotated[Any, Depends(needs_job, shared=True)]) -> None: ...
    async def shared_of(x: Annotated[Any, Depends(needs_session, shared=True)]) -> None: ...
    def apart(x: Annotated[Any, Depends(session)]) -> None: ...

    for function, says in (
        (before, "stands before the argument n"), (rest, "stands before the argument n"), (by_place, "by name"),
        (no_mark, "has no Depends"), (request, "no request"), (header, "no request"), (shared, "no job"), (shared_of, "of one job"),
    ):  # fmt: skip
        with pytest.raises(TaskDefinitionError, match=says):
            app.task()(function)
    with pytest.raises(TaskDefinitionError, match="isolate"):
        app.task(isolate="process")(apart)


def needs_job(job: CurrentJob) -> None: ...
def needs_session(x: Annotated[Any, Depends(session)]) -> None: ...
