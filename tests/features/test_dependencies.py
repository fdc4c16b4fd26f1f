"""What docs/how-to/dependencies.md promises, in a worker of this very loop, with FastAPI's `Depends` and ours."""

# mypy: disable-error-code="call-arg, arg-type"

import asyncio
import contextlib
import functools
import threading
import time
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
    Discard,
    JobContext,
    JobFailedError,
    State,
    TaskDefinitionError,
    TrackedQueue,
    current_job,
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
    with pytest.raises(ArgumentError, match="no argument: the worker makes it"):
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


async def test_no_error_is_lost_on_the_way_out(app: TrackedQueue) -> None:
    """A dependency that swallows what passes through it, and errors of others: made after it, left before it."""

    async def swallows() -> AsyncIterator[None]:
        with contextlib.suppress(BaseException):
            yield

    def swallows_plainly() -> Iterator[None]:
        with contextlib.suppress(BaseException):
            yield

    async def breaks() -> None:
        raise LookupError("no database")

    async def commits() -> AsyncIterator[None]:
        yield
        raise OSError("the commit failed")

    async def hangs() -> None:
        await anyio.sleep_forever()

    tasks = []
    for number, (outer, inner) in enumerate(
        (outer, inner) for outer in (swallows, swallows_plainly) for inner in (breaks, commits, hangs)
    ):

        @app.task(name=f"t{number}", max_attempts=1, timeout=0.3)
        async def work(*, a: Annotated[None, Depends(outer)], b: Annotated[None, Depends(inner)]) -> str:
            return "ran"

        tasks.append(work)
    async with running_worker(app):
        for number, task in enumerate(tasks):
            with pytest.raises(JobFailedError, match=["no database", "the commit failed", "timeout"][number % 3]):
                await (await task.enqueue()).result(10)


async def test_signals_pass_through(app: TrackedQueue) -> None:
    @app.task()
    async def work(n: int, *, x: Annotated[Session, Depends(session)]) -> None:
        raise Discard("not needed")

    async with running_worker(app):
        job = await work.enqueue(1)
        await wait_until(lambda: has_state(job, State.FAILED))
    assert log == ["open", "Discard"] and "not needed" in str((await job.info()).reason)


def slow_enter() -> Iterator[None]:
    time.sleep(0.3)
    log.append("entered")
    try:
        yield
    finally:
        log.append("left")


async def test_what_is_entered_in_a_thread_is_left_there_whenever_a_cancel_comes(app: TrackedQueue) -> None:
    @app.task(max_attempts=1, timeout=0.1)
    async def late(*, x: Annotated[None, Depends(slow_enter)]) -> None: ...

    @app.task(max_attempts=1, timeout=0.5)
    async def busy(*, x: Annotated[None, Depends(slow_enter)]) -> None:
        asyncio.get_running_loop().run_in_executor(current_job().thread, time.sleep, 0.6)
        await anyio.sleep_forever()

    async with running_worker(app):
        for task in (late, busy):
            job = await task.enqueue()
            await wait_until(lambda job=job: has_state(job, State.DEAD))
            assert log == ["entered", "left"], task
            log.clear()


async def test_plain_functions_keep_no_thread(app: TrackedQueue) -> None:
    def settings() -> str:
        return "x"

    @app.task()
    async def child(*, s: Annotated[str, Depends(settings)]) -> str:
        return s

    @app.task(timeout=5, max_attempts=1)
    async def parent(*, s: Annotated[str, Depends(settings)]) -> str:
        return s + await (await child.enqueue()).result(4)

    app.configure(threads=1)
    async with running_worker(app):
        assert await (await parent.enqueue()).result(10) == "xx"


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


@wrapped
def wrapped_generator() -> Iterator[str]:
    yield "wrapped"
    log.append("left")


@wrapped
async def wrapped_async_generator(x: Annotated[str, Depends(wrapped_generator)]) -> AsyncIterator[str]:
    yield f"async {x}"


@functools.lru_cache
def cached(x: Annotated[str, Depends(wrapped_generator)]) -> str:
    return f"cached {x}"


class ByNew:
    def __new__(cls, x: Annotated[str, Depends(wrapped_generator)]) -> Any:
        return f"new {x}"


class Service:
    async def method(self, x: Annotated[str, Depends(wrapped_generator)]) -> str:
        return f"method {x}"


def takes(x: Annotated[str, Depends(wrapped_generator)] = "default") -> str:
    return f"takes {x}"


async def test_all_kinds_of_callables(app: TrackedQueue) -> None:
    @app.task()
    async def work(
        *,
        a: Annotated[str, Depends(wrapped_async_generator)],
        b: Annotated[str, Depends(cached)],
        c: Annotated[str, Depends(ByNew)],
        d: Annotated[str, Depends(Service().method)],
        e: Annotated[str, Depends(partial(takes))],
        f: Annotated[Annotated[str, Depends(session)], Depends(takes)],
    ) -> list[str]:
        return [a, b, c, d, e, f]

    async with running_worker(app):
        assert await (await work.enqueue()).result(10) == [
            "async wrapped", "cached wrapped", "new wrapped", "method wrapped", "takes wrapped", "takes wrapped",
        ]  # fmt: skip


async def test_annotations_as_text(app: TrackedQueue) -> None:
    """As `from __future__ import annotations` makes them, with a return type that only a type checker sees."""
    space: dict[str, Any] = {
        "Annotated": Annotated,
        "Depends": Depends,
        "wrapped_generator": wrapped_generator,
        "Any": Any,
    }
    exec(
        """
from __future__ import annotations
import functools
async def dep(x: Annotated[str, Depends(wrapped_generator)]) -> OnlyForTypeCheckers:
    yield f"text {x}"
async def work(*, a: Annotated[str, Depends(dep)], b: Annotated[str, Depends(functools.partial(dep))]) -> list:
    return [a, b]
""",
        space,
    )
    task = app.task(name="text")(space["work"])
    async with running_worker(app):
        assert await (await task.enqueue()).result(10) == ["text wrapped", "text wrapped"]


async def test_one_shared_one_is_no_other_s_trouble(app: TrackedQueue) -> None:
    times: list[str] = []

    async def engine() -> AsyncIterator[Session]:
        made = Session()
        yield made
        made.end = "closed"

    async def cancelled() -> None:
        raise asyncio.CancelledError

    def exits() -> None:
        raise SystemExit(3)

    def stops() -> Any:
        return next(iter([]))

    async def hangs() -> str:
        times.append("hangs")
        if len(times) == 1:
            await anyio.sleep_forever()
        return "up"

    bad = []
    for number, dependency in enumerate((cancelled, exits, stops)):

        @app.task(name=f"bad{number}", max_attempts=1, timeout=2)
        async def work(*, x: Annotated[None, Depends(dependency, shared=True)]) -> None: ...

        bad.append(work)

    @app.task(name="good")
    async def good(*, e: Annotated[Session, Depends(engine, shared=True)]) -> str:
        return e.end

    @app.task(name="again", max_attempts=2, timeout=0.2, retry=[0])
    async def again(*, x: Annotated[str, Depends(hangs, shared=True)]) -> str:
        return x

    async with running_worker(app):
        for task in bad:
            job = await task.enqueue()
            await wait_until(lambda job=job: ended(job))
            assert await (await good.enqueue()).result(10) == "open"
        assert await (await again.enqueue()).result(10) == "up"


async def ended(job: Any) -> bool:
    return (await job.status()).ended


def plain_thread() -> Iterator[int]:
    log.append(threading.get_ident())
    yield 1
    log.append(threading.get_ident())


async def test_a_plain_shared_one_has_one_thread(app: TrackedQueue) -> None:
    @app.task()
    async def work(*, x: Annotated[int, Depends(plain_thread, shared=True)]) -> None: ...

    async with running_worker(app):
        await (await work.enqueue()).result(10)
    assert len(log) == 2 and log[0] == log[1] != threading.get_ident()


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


def needs_optional_job(job: CurrentJob | None = None) -> None: ...
def needs_optional_request(request: Request | None = None) -> None: ...
def needs_one_of(x: Annotated[Session, Depends(session)] | None = None) -> None: ...
def needs_by_place(x: Annotated[None, Depends(session)], /) -> None: ...
def needs_injected(x: str = injected()) -> None: ...


class Limited:
    """As FastAPI's Depends(..., max_concurrency=1)."""

    dependency, use_cache, max_concurrency = session, True, 1


class NoHash:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None: ...


def needs_limited(x: Annotated[None, Limited()]) -> None: ...
def needs_no_hash(x: Annotated[None, Depends(NoHash())]) -> None: ...
def needs_nothing(x=Depends()) -> None: ...  # type: ignore[no-untyped-def]
def needs_shared_anew(x: Annotated[None, Depends(session, shared=True, use_cache=False)]) -> None: ...


needs_itself.__annotations__["x"] = Annotated[None, Depends(needs_itself)]


@pytest.mark.parametrize(
    "dependency",
    [
        needs_request, needs_header, needs_query, needs_background, needs_argument, needs_request_below, needs_security, needs_itself,
        needs_optional_job, needs_optional_request, needs_one_of, needs_by_place, needs_injected, needs_limited, needs_no_hash,
        needs_nothing, needs_shared_anew, 5,
    ],
)  # fmt: skip
def test_what_a_job_does_not_have_is_refused_at_the_decorator(dependency: Any) -> None:
    app = TrackedQueue()

    async def work(*, x: Any = Depends(dependency)) -> None: ...

    with pytest.raises(
        TaskDefinitionError, match=r"request|itself|function|several types|by name|no Depends|Concurrency|no hash|once"
    ):
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
