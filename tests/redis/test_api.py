"""What a careful user expects of enqueues, workflows, schedules and middleware, on a real server."""

from __future__ import annotations

import asyncio
import copy
import pickle
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
import structlog

from tests.harness import START_MS, Scripts, running_worker, wait_until
from tests.rights import look
from tracked_queue import (
    Concurrency,
    Dead,
    Discard,
    DuplicateJobError,
    EnqueueFullError,
    EnqueueUnavailableError,
    Exponential,
    Fixed,
    Job,
    JobFailedError,
    ResultLeftOutError,
    Retry,
    Snooze,
    State,
    StoreFullError,
    TrackedQueue,
    UsageError,
    current_job,
)
from tracked_queue import errors as all_errors
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.transport.store import Store
from tracked_queue.worker.runner import Runner

# Prepared calls


async def test_a_prepared_call_makes_a_job_each_time_it_is_stored(app: TrackedQueue) -> None:
    """`[t.call(5)] * 3` made one job, and a constant call nothing the second time."""

    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    call = one.call(5)
    jobs = await app.enqueue_many([call] * 3)
    again = await app.enqueue_many([call])
    by_sync = await asyncio.to_thread(app.enqueue_many_sync, [call, call])
    assert len({job.id for job in [*jobs, *again, *by_sync]}) == 6 and all(
        job.created for job in [*jobs, *again, *by_sync]
    )
    named = one.options(id="mine").call(5)
    assert [job.created for job in await app.enqueue_many([named, named])] == [True, False]


async def test_calls_that_could_not_be_stored_keep_their_ids(server: RedisServer, namespace: str) -> None:
    """So that what is sent again after a lost reply is known to be the same."""
    app = TrackedQueue("redis://127.0.0.1:1", namespace=namespace, enqueue_timeout=0.3, connect_timeout=0.2)

    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    call = one.call(5)
    missing = []
    for _ in range(2):
        with pytest.raises(EnqueueUnavailableError) as found:
            await app.enqueue_many([call, call, one.call(6)])
        missing.append(found.value.job_ids[:2])
    assert missing[0] == missing[1] and len(set(missing[0])) == 2
    await app.aclose()


async def test_a_chain_is_built_twice_from_the_same_calls(app: TrackedQueue) -> None:
    @app.task(name="one")
    async def one(n: int) -> int:
        return n

    @app.task(name="add")
    async def add(n: int, more: int = 1) -> int:
        return n + more

    head, step = one.call(5), add.step()
    add_all(app)
    async with running_worker(app):
        ends = [await app.chain(head, step) for _ in range(2)]
        assert [await end.result(10) for end in ends] == [6, 6] and ends[0].id != ends[1].id
        groups = [await app.group([head, head], then=add_all(app).step()) for _ in range(2)]
        assert [await group.then.result(10) for group in groups if group.then] == [10, 10]


def add_all(app: TrackedQueue) -> Any:
    found = app.tasks.get("total")
    if found is not None:
        return found

    @app.task(name="total")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    return total


async def test_what_a_step_says_of_after_and_on_failure_is_kept(app: TrackedQueue) -> None:
    """They were thrown away."""
    ran: list[str] = []

    @app.task(name="slow")
    async def slow() -> int:
        await asyncio.sleep(0.3)
        ran.append("slow")
        return 1

    @app.task(name="bad", max_attempts=1)
    async def bad() -> int:
        raise ValueError("x")

    @app.task(name="step")
    async def step(value: int | None) -> str:
        ran.append("step")
        return f"got {value}"

    quick(app), add_all(app)
    async with running_worker(app):
        other = await slow.enqueue()
        last = await app.chain(quick(app).call(7), step.options(after=[other]).step())
        assert await last.result(10) == "got 7" and ran == ["slow", "step"]
        ignoring = await app.chain(bad.call(), step.options(on_failure="ignore").step())
        assert await ignoring.result(10) == "got None"
        fallback = await app.chain(bad.call(), quick(app).options(on_failure="fallback").call(9))
        assert await fallback.result(10) == 9
        group = await app.group([quick(app).call(n) for n in (1, 2)], then=add_all(app).options(after=[other]).step())
        assert group.then is not None and await group.then.result(10) == 3, (
            "the other job's result is none of the group's"
        )


def quick(app: TrackedQueue) -> Any:
    found = app.tasks.get("quick")
    if found is not None:
        return found

    @app.task(name="quick")
    async def made(n: int) -> int:
        return n

    return made


# Ids, results, errors


async def test_an_id_of_another_task_is_an_error_that_says_so(app: TrackedQueue) -> None:
    """The second enqueue had the first task's job, and its result failed in the decoder."""

    @app.task(name="first")
    async def first(n: int) -> int:
        return n

    @app.task(name="second")
    async def second(n: int) -> str:
        return str(n)

    assert (await first.options(id="order-7").enqueue(7)).created
    assert not (await first.options(id="order-7").enqueue(7)).created
    for enqueue in (second.options(id="order-7").enqueue(7), app.enqueue_many([second.options(id="order-7").call(7)])):
        with pytest.raises(DuplicateJobError, match="job of task first"):
            await enqueue
    with pytest.raises(DuplicateJobError, match="job of task first"):
        await app.enqueue_many([first.options(id="order-8").call(1), second.options(id="order-8").call(1)])


async def test_a_handle_by_id_alone_has_the_type_of_the_records_task(app: TrackedQueue) -> None:
    @app.task(name="span")
    async def span() -> timedelta:
        return timedelta(seconds=5)

    async with running_worker(app):
        job = await span.enqueue()
        assert await job.result(10) == timedelta(seconds=5)
        assert await app.job(job.id).result(1) == timedelta(seconds=5)
    await connections_of(app).store.read(("HSET", connections_of(app).keys.named("job", job.id), "result", b"\xa1x"))
    for handle in (job, app.job(job.id)):
        with pytest.raises(all_errors.UnreadableResultError, match="span"):
            await handle.result(1)


async def test_a_full_redis_raises_the_documented_error(namespace: str) -> None:
    full = RedisServer("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    try:
        async with TrackedQueue(full.url, namespace=namespace) as app:
            for enqueue in (app.enqueue("t", 1), asyncio.to_thread(app.enqueue_sync, "t", 1)):
                with pytest.raises(StoreFullError) as found:
                    await enqueue
                assert (
                    isinstance(found.value, EnqueueFullError) and found.value.job_ids and not found.value.may_have_run
                )
    finally:
        full.close()


async def test_a_job_at_a_full_redis_hears_of_its_checkpoint_and_not_of_its_progress(namespace: str) -> None:
    server = RedisServer()
    said: list[str] = []
    try:
        async with TrackedQueue(server.url, namespace=namespace) as app:

            @app.task(name="large")
            async def large() -> str:
                await look(app, "CONFIG", "SET", "maxmemory", "1")
                await current_job().progress(1, 2)
                await current_job().log("a line")
                with pytest.raises(StoreFullError):
                    await current_job().checkpoint("x" * 3000)
                said.append("went on")
                return "x" * 3000

            async with running_worker(app):
                job = await large.enqueue()
                with pytest.raises(ResultLeftOutError):
                    await job.result(20)
                info = await job.info()
                assert said and info.state is State.SUCCEEDED and info.result is None and info.progress is None
                await look(app, "CONFIG", "SET", "maxmemory", "0")
    finally:
        server.close()


async def test_one_call_s_further_names_fail_no_other_caller(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [await app.enqueue("t", n) for n in range(3)]
    client = connections_of(app).here().all[0]
    run = client.store.run

    async def refused(call: Any, *rest: Any) -> Any:
        if call.script == "follow":
            raise StoreFullError("it is full", may_have_run=False)
        return await run(call, *rest)

    monkeypatch.setattr(client.store, "run", refused)
    many = app.options(after=[first[0]] * 300)
    found = await asyncio.gather(*(app.enqueue("t", n) for n in range(5)), many.enqueue("t"), return_exceptions=True)
    assert all(isinstance(one, Job) for one in found[:5])
    assert isinstance(found[5], EnqueueUnavailableError) and found[5].may_have_run


async def test_a_worker_holds_few_results_that_are_not_recorded(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that has ended keeps its place while they are many; a stop waits for none of it, and a timeout does nothing."""
    started: list[int] = []

    @app.task(name="big", timeout=0.5)
    async def big(n: int) -> bytes:
        started.append(n)
        return bytes(900_000)

    run = Store.run
    stands = asyncio.Event()

    async def slow(self: Store, call: Any, timeout: float | None = None) -> Any:
        if call.script == "settle":
            await stands.wait()
        return await run(self, call, timeout)

    monkeypatch.setattr(Store, "run", slow)
    fired: list[float] = []
    arm = Runner._arm

    def noted(self: Runner, at: float) -> None:
        fired.append(at)
        arm(self, at)

    monkeypatch.setattr(Runner, "_arm", noted)
    await app.enqueue_many([big.call(n) for n in range(60)])
    async with running_worker(app, concurrency=4):
        await wait_until(lambda: len(started) >= 18, what="them to pile up")
        await asyncio.sleep(0.7)
        assert len(started) <= 18 + 4 + 1, "16 MiB of them, and those that have places"
        assert len(fired) < 200, "deadlines of what has ended fire on and on"
        stands.set()
        await wait_until(lambda: len(started) == 60, 20, "the rest")


def test_every_error_and_signal_can_be_pickled_and_copied() -> None:
    known: dict[str, Any] = {
        "may_have_run": True,
        "job_ids": ("a", "b"),
        "seconds": 1.5,
        "payload_bytes": 5,
        "max_bytes": 3,
        "size": 4,
    }
    facts: dict[Any, tuple[Any, ...]] = {}
    for kind in vars(all_errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == all_errors.__name__:
            code = getattr(kind.__init__, "__code__", None)
            names = ("reason",) if code is None else code.co_varnames[1 : code.co_argcount]
            facts[kind] = tuple(known.get(name, name) for name in names)
    made = [kind(*values) for kind, values in facts.items()] + [
        Retry(5, "x"),
        Retry(),
        Snooze(3),
        Discard("x"),
        Dead("y"),
    ]
    for error in made:
        for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(copied) is type(error) and vars(copied) == vars(error) and str(copied) == str(error)


# Retries


async def test_handles_and_apps_can_be_compared_and_copied_and_say_why_they_are_not_pickled(app: TrackedQueue) -> None:
    job = await app.enqueue("t")
    same = app.job(job.id)
    assert job == same and len({job, same}) == 1 and job != app.job("other") and job != job.id
    assert copy.copy(job) is copy.deepcopy(job) is job and copy.deepcopy(app) is copy.copy(app) is app
    bound = quick(app).options(delay=5)
    assert copy.deepcopy(bound) is bound
    for one, hint in ((job, "its id"), (app, "import it")):
        with pytest.raises(TypeError, match=hint):
            pickle.dumps(one)


async def test_options_upon_options(app: TrackedQueue) -> None:
    task = quick(app)
    job = await task.options(delay=60, queue="a").options(queue="b").enqueue(1)
    info = await job.info()
    assert info.queue == "b" and info.state is State.SCHEDULED
    with pytest.raises(UsageError, match="no such option"):
        task.options(delay=1).options(queu="b")  # type: ignore[call-arg]
    untracked = app.task(name="untracked", tracked=False)(_nothing)
    with pytest.raises(UsageError, match="max_attempts"):
        await untracked.options(max_attempts=7).enqueue()
    with pytest.raises(UsageError, match="max_attempts"):
        app.task(name="untracked2", tracked=False, max_attempts=3)
    with pytest.raises(UsageError, match="both name ValueError"):
        app.task(name="both", retry_on=ValueError, give_up_on=[ValueError])


async def _nothing() -> None: ...


def test_include_takes_all_or_nothing_and_what_comes_later_is_refused() -> None:
    def sub(*, task: str = "", schedule: str = "", queue: str = "", carried: str = "") -> TrackedQueue:
        made = TrackedQueue(carry=[ContextVar(carried)] if carried else ())

        async def run() -> None: ...

        if task:
            registered = made.task(name=task)(run)
            if schedule:
                made.every(60, name=schedule)(registered)
        if queue:
            made.limit_queue(queue, Concurrency(1))
        return made

    for one, two in (
        (sub(task="a"), sub(task="a")),
        (sub(task="a", schedule="nightly"), sub(task="b", schedule="nightly")),
        (sub(queue="q"), sub(queue="q")),
        (sub(carried="x"), sub(carried="x")),
    ):
        main = TrackedQueue()
        with pytest.raises(UsageError):
            main.include(one, two)
        assert (
            not list(main.tasks)
            and not main.schedules
            and not producer_of(main).definitions.queue_limits
            and not producer_of(main).definitions.hooks.carry
        )
    own = sub(task="a")
    main = TrackedQueue()
    with pytest.raises(UsageError, match="twice"):
        main.include(own, own)
    main.include(own)

    async def around(job: Any, call_next: Any) -> Any:
        return await call_next()

    for late in (
        lambda: own.middleware(around), lambda: own.enqueue_middleware(around), lambda: own.configure(concurrency=1),
        lambda: own.limit_queue("q", Concurrency(1)), lambda: own.include(TrackedQueue()), lambda: own.task(name="late"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="was included"):
            late()


async def test_a_retry_by_timedelta_and_the_error_that_is_kept(app: TrackedQueue) -> None:
    """`Fixed(timedelta)` was accepted, and each job dead at its first failure with another error than its own."""
    for policy in (
        Fixed(timedelta(milliseconds=10)),
        Exponential(base=timedelta(milliseconds=5), cap=timedelta(seconds=1)),
    ):
        name = type(policy).__name__

        @app.task(name=name, max_attempts=2, retry=policy)
        async def fails() -> None:
            raise ValueError("its own")

        async with running_worker(app):
            job = await fails.enqueue()
            with pytest.raises(JobFailedError, match="its own"):
                await job.result(10)
            info = await job.info()
            assert info.attempts == 2 and info.error is not None and info.error.type == "ValueError"


@pytest.mark.parametrize(("raised", "state", "attempts"), [
    ([Retry(0)], State.SUCCEEDED, 2),
    ([Snooze(0)], State.SUCCEEDED, 1),
    ([Discard("no")], State.FAILED, 1),
    ([Dead("no")], State.DEAD, 1),
    ([Retry(0), Discard("no"), ValueError("x")], State.FAILED, 1),
    ([Discard("no"), Dead("no")], State.DEAD, 1),
    ([ValueError("x")], State.SUCCEEDED, 2),
    ([ValueError("x"), KeyError("y")], State.FAILED, 1),
    ([Retry(0), ValueError("x")], State.FAILED, 1),
])  # fmt: skip
async def test_a_group_means_what_is_in_it(
    app: TrackedQueue, raised: list[Exception], state: State, attempts: int
) -> None:
    """Signals in a TaskGroup were ordinary errors: Discard was retried, Snooze spent attempts, retry_on never fitted."""
    runs = 0

    @app.task(name="group", retry=[0], retry_on=ValueError)
    async def group() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ExceptionGroup("several", [ExceptionGroup("deeper", raised)])

    async with running_worker(app):
        job = await group.enqueue()
        await wait_until(lambda: _ended(job), what="its end")
        info = await job.info()
        assert (info.state, info.attempts) == (state, attempts)
        if state is State.FAILED and KeyError in map(type, raised):
            assert "KeyError" in str(info.reason)


async def _ended(job: Any) -> bool:
    return bool((await job.status()).ended)


# Middleware


async def test_middleware_that_forgets_to_await_is_no_success(app: TrackedQueue) -> None:
    ran = []

    @app.task(name="t", max_attempts=1, keep_result=False)
    async def task() -> None:
        ran.append(1)

    @app.middleware
    async def forgets(job: Any, call_next: Any) -> None:
        running = call_next()
        if job.headers.get("forget"):
            running.close()
        else:
            await running

    async with running_worker(app):
        with pytest.raises(JobFailedError, match="did not await"):
            await (await task.options(headers={"forget": True}).enqueue()).result(10)
        await (await task.enqueue()).result(10)
    assert ran == [1]


async def test_a_plain_function_around_a_coroutine_is_awaited(app: TrackedQueue) -> None:
    """It "succeeded" without a run: by a decorator that is a plain def, and by a def that returns a coroutine."""
    import functools

    ran: list[str] = []

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args)

        return inner

    async def body(name: str) -> str:
        ran.append(name)
        return name

    def returns(name: str) -> Any:
        return body(name)

    for number, options in enumerate(({}, {"keep_result": False}, {"tracked": False})):
        made = {
            kind: app.task(name=f"{kind}{number}", **options)(own)
            for kind, own in (("wrapped", logged(body)), ("returned", returns))
        }
        async with running_worker(app):
            for kind, task in made.items():
                await task.enqueue(f"{kind}{number}")
            await wait_until(lambda number=number: len(ran) == 2 * number + 2, what="the bodies to run")


async def test_an_enqueue_middleware_returns_a_job(app: TrackedQueue) -> None:
    @app.enqueue_middleware
    async def forgets(enqueueing: Any, call_next: Any) -> None:
        await call_next()

    with pytest.raises(UsageError, match="enqueue middleware returned a NoneType"):
        await app.enqueue("t")


# Schedules


def test_a_changed_rule_counts_from_its_change(q: Scripts) -> None:
    """It fired at once for a time that it never had, or with `missed="all"` for all of them."""
    hour = 3_600_000

    def tell(rule: str) -> int:
        return q.store.run(t.schedule([("nightly", "t", "q", rule)])).last_ms[0]

    assert tell("0 3 * * * UTC") == START_MS
    q.now(START_MS + 2 * hour)
    assert tell("0 3 * * * UTC") == START_MS, "nothing has changed"
    assert tell("*/5 * * * * UTC") == START_MS + 2 * hour
    q.now(START_MS + 3 * hour)
    assert tell("*/5 * * * * UTC") == START_MS + 2 * hour, "told again"


# Waiting inside of jobs


async def test_slots_that_all_wait_for_other_jobs_are_told_of(app: TrackedQueue) -> None:
    """A dead-lock until the timeout, without a word."""
    app.configure(concurrency=2)

    @app.task(name="child")
    async def child() -> int:
        return 1

    @app.task(name="parent", timeout=1.5, max_attempts=1)
    async def parent() -> int:
        return await (await child.enqueue()).result()

    with structlog.testing.capture_logs() as lines:
        jobs = [await parent.enqueue() for _ in range(2)]
        async with running_worker(app):
            for job in jobs:
                with pytest.raises(JobFailedError):
                    await job.result(10)
    told = [line for line in lines if line["event"] == "slots.waiting"]
    assert len(told) == 1 and told[0]["task"] == "parent" and told[0]["slots"] == 2
