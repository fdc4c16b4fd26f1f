"""What docs/how-to/sync-work.md promises of threads: what is around a job in its thread, and a thread for a job alone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from tests.features.thread_tasks import where
from tests.harness import running_worker, wait_until
from tracked_queue import JobFailedError, TrackedQueue, UsageError, current_job
from tracked_queue.app import connections_of
from tracked_queue.testing import inline
from tracked_queue.worker import lanes as lanes_module

session: ContextVar[str] = ContextVar("session", default="none")
request: ContextVar[str] = ContextVar("request", default="none")


async def in_thread(function: Callable[[], Any]) -> Any:
    """As any library calls a blocking function."""
    return await asyncio.get_running_loop().run_in_executor(current_job().thread, function)


def ident() -> int:
    return threading.get_ident()


class Around:
    """A context that notes what it sees."""

    def __init__(self, app: TrackedQueue) -> None:
        self.seen: list[tuple[str, int]] = []
        self.enter_error: Exception | None = None
        self.exit_error: Exception | None = None
        app.thread_context(self.context)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        if self.enter_error is not None:
            raise self.enter_error
        token = session.set(f"session of {current_job().id}")
        self.seen.append(("enter", ident()))
        try:
            yield
        except BaseException as error:
            self.seen.append((type(error).__name__, ident()))
            raise
        else:
            self.seen.append(("well", ident()))
        finally:
            session.reset(token)  # fails in any other context than the one that it was set in
        if self.exit_error is not None:
            raise self.exit_error

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.seen]


@pytest.mark.parametrize("before", ["nothing", "named", "used"])
async def test_a_context_is_around_a_plain_function_in_its_thread(app: TrackedQueue, before: str) -> None:
    around = Around(app)

    @app.middleware
    async def middleware(job: Any, call_next: Any) -> Any:
        if before != "nothing":
            thread = job.thread
        if before == "used":
            await asyncio.wrap_future(thread.submit(ident))
        request.set("r-17")
        return await call_next()

    @app.task(name="plain")
    def plain() -> tuple[int, str, str]:
        return ident(), session.get(), request.get()

    async with running_worker(app):
        job = await plain.enqueue()
        thread, found, sent = await job.result(10)
    assert (found, sent) == (f"session of {job.id}", "r-17")
    assert around.seen == [("enter", thread), ("well", thread)]
    assert thread != ident()


async def test_an_error_passes_through_and_one_at_the_end_is_the_jobs(app: TrackedQueue) -> None:
    around = Around(app)

    @app.task(name="fails", max_attempts=1)
    def fails() -> None:
        raise LookupError("of the job")

    @app.task(name="fine", max_attempts=1)
    async def fine(use: bool) -> str:
        return await in_thread(session.get) if use else "unused"

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="of the job"):
            await (await fails.enqueue()).result(10)
        assert around.words == ["enter", "LookupError"]
        around.exit_error = RuntimeError("the commit failed")
        with pytest.raises(JobFailedError, match="the commit failed"):
            await (await fine.enqueue(True)).result(10)
        # A job that uses no thread has nothing around it.
        assert await (await fine.enqueue(False)).result(10) == "unused"
        assert around.words[2:] == ["enter", "well"]
        around.exit_error, around.enter_error = None, RuntimeError("no database")
        with pytest.raises(JobFailedError, match="no database"):
            await (await fine.enqueue(True)).result(10)
        with pytest.raises(JobFailedError, match="no database"):
            await (await fails.enqueue()).result(10)
        around.enter_error = None
        job = await fine.enqueue(True)
        assert await job.result(10) == f"session of {job.id}"


async def test_a_job_has_one_thread_to_itself_until_it_ends(app: TrackedQueue) -> None:
    around = Around(app)
    together = asyncio.Barrier(3)

    @app.task(name="several")
    async def several() -> list[int]:
        first = await in_thread(ident)
        await together.wait()
        return [first, await in_thread(ident), await in_thread(ident)]

    async with running_worker(app):
        jobs = [await several.enqueue() for _ in range(2)]
        await together.wait()
        found = [await job.result(10) for job in jobs]
    assert all(len(set(threads)) == 1 for threads in found)
    assert found[0][0] != found[1][0]
    assert sorted(around.words) == ["enter", "enter", "well", "well"]


async def test_there_are_never_more_threads_than_the_setting_says(app: TrackedQueue) -> None:
    connections_of(app).settings = replace(app.settings, threads=3, concurrency=50)
    begun, ended, busy, most = [], [], 0, 0
    lock = threading.Lock()

    @app.thread_lifespan
    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        begun.append(ident())
        yield
        ended.append(ident())

    def work() -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        with lock:
            busy -= 1

    @app.task(name="mixed")
    async def uses() -> None:
        await in_thread(work)
        await asyncio.sleep(0.001)
        await in_thread(work)

    @app.task(name="plain")
    def plain() -> None:
        work()

    async with running_worker(app):
        jobs = await app.enqueue_many([task.call() for _ in range(40) for task in (uses, plain)])
        for job in jobs:
            await job.result(20)
    assert most == 3
    assert len(begun) == 3
    assert sorted(ended) == sorted(begun)  # each in its own thread


async def test_a_thread_without_work_ends(app: TrackedQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "IDLE_S", 0.05)
    ended = threading.Event()

    @app.thread_lifespan
    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        yield
        ended.set()

    @app.task(name="plain")
    def plain() -> int:
        return ident()

    async with running_worker(app):
        await (await plain.enqueue()).result(10)
        await wait_until(ended.is_set, what="its end")
        await (await plain.enqueue()).result(10)  # a new one


async def test_a_thread_that_could_not_begin_is_tried_again(app: TrackedQueue) -> None:
    problems = [RuntimeError("no license")]

    @app.thread_lifespan
    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        if problems:
            raise problems.pop()
        yield

    @app.task(name="plain", max_attempts=1)
    def plain() -> int:
        return 1

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="no license"):
            await (await plain.enqueue()).result(10)
        assert await (await plain.enqueue()).result(10) == 1


async def test_a_thread_that_is_still_at_work_is_not_given_to_another_job(app: TrackedQueue) -> None:
    """After a timeout the job's blocking call goes on, and with it what it holds."""
    connections_of(app).settings = replace(app.settings, threads=1)
    around, release = Around(app), threading.Event()

    @app.task(name="stuck", max_attempts=1)
    async def stuck() -> None:
        await in_thread(release.wait)

    @app.task(name="next")
    async def after() -> list[str]:
        return await in_thread(lambda: around.words)

    async with running_worker(app), contextlib.AsyncExitStack() as stack:
        stack.callback(release.set)
        first = await stuck.options(timeout=0.05).enqueue()
        with pytest.raises(JobFailedError, match="timeout"):
            await first.result(10)
        second = await after.enqueue()
        with pytest.raises(TimeoutError):
            await second.result(0.3)
        release.set()
        assert await second.result(10) == ["enter", "CancelledError", "enter"]


@pytest.mark.parametrize("plain", [True, False])
async def test_a_stuck_thread_holds_up_nothing_but_its_job(app: TrackedQueue, plain: bool) -> None:
    connections_of(app).settings = replace(app.settings, threads=2)
    release, order = threading.Event(), []

    @app.middleware
    async def middleware(job: Any, call_next: Any) -> Any:
        try:
            return await call_next()
        finally:
            order.append(f"after {job.task}")

    def block() -> None:
        release.wait()
        order.append("stuck ends")

    @app.task(name="stuck-def", max_attempts=1)
    def stuck_def() -> None:
        block()

    @app.task(name="stuck-async", max_attempts=1)
    async def stuck_async() -> None:
        await in_thread(block)

    @app.task(name="next")
    def after() -> int:
        return ident()

    async with running_worker(app), contextlib.AsyncExitStack() as stack:
        stack.callback(release.set)
        stuck = stuck_def if plain else stuck_async
        first = await stuck.options(timeout=0.05).enqueue()
        with pytest.raises(JobFailedError, match="timeout"):
            await first.result(10)
        threads = {await (await after.enqueue()).result(10) for _ in range(3)}
        assert len(threads) == 1  # the other one, again and again
        release.set()
        await wait_until(lambda: len(order) == 5, what="the stuck one's end")
    if plain:
        assert order[-2:] == ["stuck ends", "after stuck-def"]  # middleware is around the whole run


async def test_what_a_job_left_behind_gets_no_thread(app: TrackedQueue) -> None:
    found: list[BaseException] = []
    goes_on = asyncio.Event()
    tasks = []

    async def later() -> None:
        job = current_job()
        await goes_on.wait()
        for use in (lambda: job.thread, lambda: job.thread.submit(ident)):
            try:
                use()
            except (UsageError, RuntimeError) as error:
                found.append(error)

    @app.task(name="leaves")
    async def leaves(use: bool) -> None:
        if use:
            await in_thread(ident)
        tasks.append(asyncio.ensure_future(later()))

    async with running_worker(app):
        for use in (True, False):
            await (await leaves.enqueue(use)).result(10)
        goes_on.set()
        await asyncio.wait(tasks)
    assert [type(error) for error in found] == [RuntimeError, UsageError, UsageError]


async def test_a_child_process_enters_them_too(app: TrackedQueue) -> None:
    """The child finds the function's task, and what its app puts around, in the function's own module."""
    apart = app.task(name="where", isolate="process")(where.function)
    async with running_worker(app):
        assert await (await apart.enqueue()).result(20) == ["lifespan", "context"]
        # The process is the same, and its lifespan was entered once.
        assert await (await apart.enqueue()).result(20) == ["lifespan", "context", "left", "context"]


async def test_an_inline_job_has_the_same_around(app: TrackedQueue) -> None:
    around = Around(app)

    @app.task(name="uses")
    async def uses() -> list[int]:
        return [await in_thread(ident), await in_thread(ident)]

    @app.task(name="plain")
    def plain() -> str:
        return session.get()

    async with inline(app):
        first, second = await (await uses.enqueue()).result()
        assert first == second != ident()
        assert (await (await plain.enqueue()).result()).startswith("session of ")
    assert around.words == ["enter", "well"] * 2


@pytest.mark.parametrize("register", ["thread_context", "thread_lifespan"])
def test_what_is_no_context_manager_is_refused(register: str) -> None:
    app = TrackedQueue()

    def generator() -> Iterator[None]:
        yield

    @contextlib.asynccontextmanager
    async def awaits() -> AsyncIterator[None]:
        yield

    @contextlib.contextmanager
    def wants(job: object) -> Iterator[None]:
        yield

    for wrong, words in (
        (generator, "contextlib.contextmanager"),
        (awaits, "`def`"),
        (wants, "no arguments"),
        (3, "`def`"),
    ):
        with pytest.raises(UsageError, match=words):
            getattr(app, register)(wrong)


async def test_what_was_committed_as_the_job_timed_out_counts(app: TrackedQueue) -> None:
    committed: list[int] = []

    @app.thread_context
    @contextlib.contextmanager
    def slow_commit() -> Iterator[None]:
        yield
        time.sleep(0.3)
        committed.append(current_job().attempt)

    @app.task(name="late", max_attempts=2, timeout=0.1, retry=[0.01])
    async def late() -> int:
        return await in_thread(lambda: 7)

    async with running_worker(app):
        job = await late.enqueue()
        assert await job.result(10) == 7
    assert committed == [1]


async def test_what_waits_for_a_thread_when_its_job_ends_is_cancelled(app: TrackedQueue) -> None:
    connections_of(app).settings = replace(app.settings, threads=1)
    release, futures = threading.Event(), []

    @app.task(name="holds")
    def holds() -> None:
        release.wait()

    @app.task(name="asks")
    async def asks() -> None:
        futures.append(current_job().thread.submit(ident))

    async with running_worker(app), contextlib.AsyncExitStack() as stack:
        stack.callback(release.set)
        await holds.enqueue()
        await wait_until(lambda: threading.active_count() > 1, what="the holder")
        await (await asks.enqueue()).result(10)
        assert futures[0].cancelled()


async def test_a_loop_that_the_job_runs_in_its_thread_may_use_that_thread(app: TrackedQueue) -> None:
    """`asyncio.run` in a plain def: what that loop sends to the job's thread would wait for ever."""

    @app.task(name="loops", max_attempts=1)
    def loops() -> bool:
        async def inner() -> int:
            return await in_thread(ident)

        return asyncio.run(inner()) == ident()

    async with running_worker(app):
        assert await (await loops.enqueue()).result(10)


async def test_an_exit_in_the_thread_ends_no_worker(app: TrackedQueue) -> None:
    @app.task(name="exits", max_attempts=1)
    async def exits() -> None:
        await asyncio.gather(*[asyncio.ensure_future(in_thread(lambda: exec("raise SystemExit(3)")))])

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="SystemExit in the job's thread"):
            await (await exits.enqueue()).result(10)
        with pytest.raises(JobFailedError):
            await (await exits.enqueue()).result(10)
