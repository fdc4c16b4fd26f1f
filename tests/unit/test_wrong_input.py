"""
Every public function, decorator and option with wrong input: an error of ours that names the argument, at the call.

The tables are held against the signatures, so that a new option can't be forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from tracked_queue import (
    Concurrency,
    Exponential,
    Fixed,
    JobContext,
    Rate,
    Retry,
    Snooze,
    TrackedQueue,
    TrackedQueueError,
    Unique,
    UsageError,
)
from tracked_queue.app import NamedEnqueue, producer_of
from tracked_queue.model.context import CurrentJob
from tracked_queue.model.options import JobOptionsArgs
from tracked_queue.model.workflow import Group
from tracked_queue.settings import setting_default, setting_names

NAN, INF, HUGE = float("nan"), float("inf"), 10**400
NOT_SECONDS: list[Any] = ["5", b"5", NAN, INF, HUGE, True, [], object(), -1, dt.timedelta(days=-1)]
NOT_TEXT: list[Any] = [5, b"x", True, ["x"], {}, object()]
NOT_A_NAME: list[Any] = [*NOT_TEXT, "", "x" * 300, "a\nb"]
NOT_A_FLAG: list[Any] = [None, 0, 1, "no", "", [], object()]
NOT_A_COUNT: list[Any] = ["5", 0, -1, 1.5, True, HUGE, NAN, [], object()]
NOT_A_LIST: list[Any] = [5, "x", b"x", {}, {"x": 1}, {"x"}, (item for item in "x"), object()]
NOT_A_FUNCTION: list[Any] = [5, "x", [], object(), lambda: None, Exponential]
NOT_A_KEY: list[Any] = [5, True, [], (), {}, {"n"}, [5], (name for name in ["n"]), int, object()]
NOT_CLASSES: list[Any] = [5, "x", [], [5], ValueError(), ["x"], lambda: None, int, [int], Retry, ValueError | KeyError]
NOT_AN_APP: list[Any] = [5, None, "app", [], TrackedQueue]
NOT_CALLS: list[Any] = [None, 5, "x", [5], [None], (item for item in ())]


async def hook(job: Any, error: Any) -> None: ...


async def function(n: int = 1) -> int:
    return n


def sub_generator() -> Any:
    yield


def app() -> TrackedQueue:
    return TrackedQueue()


def task_with(**options: Any) -> Any:
    async def own(n: int = 1) -> int:
        return n

    return app().task(**options)(own)


def scheduled(decorator: str, *first: Any, **options: Any) -> Any:
    made = app()
    return getattr(made, decorator)(*first, **options)(made.task(name="t")(function))


def run(call: Callable[[TrackedQueue, Any], Any]) -> None:
    """What a coroutine refuses before it asks anybody."""

    async def main() -> None:
        made = app()
        made.task(name="t")(function)
        await call(made, made.tasks.get("t"))

    asyncio.run(main())


async def annotated_key(**_: Any) -> str:
    return "x"


# Of each option of a function: how it is given, and what it must not be.
TASK: dict[str, list[Any]] = {
    "name": NOT_A_NAME,
    "queue": NOT_A_NAME,
    "timeout": [*NOT_SECONDS, 0],
    "max_attempts": [*NOT_A_COUNT, None],
    "retry": [5, "x", b"x", bytearray(b"x"), [], {}, ["x"], Exponential, Fixed, int, hook, lambda attempt: 1, object()],
    "retry_on": NOT_CLASSES,
    "give_up_on": NOT_CLASSES,
    "on_exhausted": [5, "x", lambda job, error: None, function, ValueError],
    "expires": [*NOT_SECONDS, 0],
    "result_ttl": NOT_SECONDS,
    "keep_result": NOT_A_FLAG,
    "tracked": NOT_A_FLAG,
    "unique": [5, "x", True, Unique, ["until_done"], Concurrency(1)],
    "limit": [5, "x", "", {}, Concurrency, Unique(), [5], {Concurrency(1): 2}, (item for item in ())],
    "fair_by": [*NOT_A_KEY, "unknown", annotated_key],
    "isolate": ["thread", True, 5],
}
CRON: dict[str, list[Any]] = {
    "expression": [None, 5, ["x"], function],
    "tz": [None, 5, b"UTC", "Nowhere/City", "Europe", "x" * 5000, ""],
    "missed": ["never", None, 5, ""],
    "name": NOT_A_NAME,
    "args": [5, "7", b"x", {1: 2}, None, (item for item in ()), ["x"], [1, 2]],
    "kwargs": [5, "x", [("n", 5)], {1: 2}, {"unknown": 1}],
}
EVERY: dict[str, list[Any]] = {
    "seconds": [*NOT_SECONDS, 0, 0.5],
    **{name: values for name, values in CRON.items() if name not in ("expression", "tz")},
}
OPTIONS: dict[str, list[Any]] = {
    "id": NOT_A_NAME,
    "queue": NOT_A_NAME,
    "delay": [item for item in NOT_SECONDS if item != -1 and not isinstance(item, dt.timedelta)],
    "at": [5, "tomorrow", dt.datetime(2026, 1, 1), dt.date(2026, 1, 1), dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9)))],
    "timeout": [*NOT_SECONDS, 0],
    "max_attempts": NOT_A_COUNT,
    "expires": [*NOT_SECONDS, 0],
    "headers": [5, True, "x", ["x"], {1: 2}, {None: 1}, lambda: None],
    "known_for": [*NOT_SECONDS, 0, 5],  # 5: without an id
    "after": [5, "id", b"id", {}, set(), {"x": 1}, [None], [5], (item for item in ())],
    "on_failure": ["explode", 5, None, ""],
    "durability": ["disk", 5, True],
}  # fmt: skip
CLASSES: dict[str, tuple[Callable[..., Any], dict[str, list[Any]]]] = {
    "Unique": (Unique, {
        "until": ["never", 5, None], "by": [*NOT_A_KEY, annotated_key], "conflict": ["fight", 5, None], "window": [*NOT_SECONDS, 0],
        "max_wait": [*NOT_SECONDS, 0, 5],  # 5: without conflict="replace"
    }),
    "Concurrency": (lambda **given: Concurrency(**{"most": 1, **given}), {
        "most": [*NOT_A_COUNT, None, "5/m"], "key": [*NOT_A_KEY, annotated_key], "name": NOT_A_NAME,
    }),
    "Rate": (lambda **given: Rate(**{"most": 1, "per": 1, **given}), {
        "most": [*NOT_A_COUNT, None, "5/m"], "per": [*NOT_SECONDS, 0, None], "key": [*NOT_A_KEY, annotated_key], "name": NOT_A_NAME,
    }),
    "Exponential": (Exponential, {"base": [*NOT_SECONDS, 700], "cap": [*NOT_SECONDS, 1]}),
    "Fixed": (lambda **given: Fixed(**{"seconds": 1, **given}), {
        "seconds": [*NOT_SECONDS, None], "jitter": ["x", None, True, -1, 2, NAN],
    }),
    "Retry": (Retry, {"after": NOT_SECONDS}),
    "Snooze": (lambda **given: Snooze(**given), {"for_": [*NOT_SECONDS, None]}),
}  # fmt: skip


def table(name: str, call: Callable[..., Any], options: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(call, option, value, id=f"{name}-{option}-{at}")
        for option, values in options.items()
        for at, value in enumerate(values)
    ]


@pytest.mark.parametrize(("call", "option", "value"), [
    *table("task", task_with, TASK),
    *table("cron", lambda expression="* * * * *", **given: scheduled("cron", expression, **given), CRON),
    *table("every", lambda seconds=60, **given: scheduled("every", seconds, **given), EVERY),
    *table("options", lambda **given: app().options(**given), OPTIONS),
    *table("task.options", lambda **given: task_with().options(**given), OPTIONS),
    *(row for name, (call, options) in CLASSES.items() for row in table(name, call, options)),
])  # fmt: skip
def test_an_option_that_can_not_be_meant_is_refused_by_name(call: Callable[..., Any], option: str, value: Any) -> None:
    with pytest.raises(TrackedQueueError) as found:
        call(**{option: value})
    said = str(found.value)
    known_as = {"for_": "Snooze", "window": "window", "seconds": "every" if "every" in said else "seconds", "id": "id"}
    words = (option, known_as.get(option, option), "argument n", "argument unknown", "positional")
    assert any(word in said for word in words), said
    assert len(said) < 1000 and "\n" not in said


def test_no_option_is_forgotten() -> None:
    """The tables name every parameter that there is."""

    def names(function: Any) -> set[str]:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {item.name for item in inspect.signature(function).parameters.values() if item.kind in kinds} - {"self"}

    assert names(TrackedQueue.task) == set(TASK)
    assert names(TrackedQueue.cron) == set(CRON)
    assert names(TrackedQueue.every) == set(EVERY)
    assert set(JobOptionsArgs.__annotations__) == set(OPTIONS)
    for name, kind in {
        "Unique": Unique, "Concurrency": Concurrency, "Rate": Rate, "Exponential": Exponential, "Fixed": Fixed,
    }.items():  # fmt: skip
        assert names(kind) == set(CLASSES[name][1]), name
    assert names(Retry) - {"reason"} == {"after"} and names(Snooze) - {"reason"} == {"for_"}
    assert names(TrackedQueue.__init__) - {"redis_url"} == {"lifespan", "carry"}


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_refuses_what_it_is_not(name: str) -> None:
    default = setting_default(name)
    wrong: list[Any] = [object(), [], b"x"]
    if isinstance(default, bool):
        wrong += ["yes", 1]
    elif isinstance(default, str):
        wrong += [5, True]
    else:
        wrong += ["5", True, -1, HUGE]
        wrong += [NAN, INF] if isinstance(default, float) else [1.5]
    for value in wrong:
        with pytest.raises(UsageError, match=name):
            TrackedQueue(**{name: value})


@pytest.mark.parametrize("lifespan", [5, "x", function, sub_generator, contextlib.asynccontextmanager, hook])
def test_a_lifespan_that_is_none_is_refused(lifespan: Any) -> None:
    with pytest.raises(UsageError, match="lifespan"):
        TrackedQueue(lifespan=lifespan)


@pytest.mark.parametrize("carry", [5, "x", [5], ["v"], ContextVar("v"), [ContextVar("v"), ContextVar("v")], None])
def test_carry_takes_context_variables(carry: Any) -> None:
    with pytest.raises(UsageError, match="carry"):
        TrackedQueue(carry=carry)


@pytest.mark.parametrize("value", [5, None, "x", [], lambda job, call_next: None, function, ValueError])
def test_middleware_is_an_async_function_of_two(value: Any) -> None:
    for name in ("middleware", "enqueue_middleware"):
        with pytest.raises(UsageError, match=name):
            getattr(app(), name)(value)


@pytest.mark.parametrize("value", [5, None, "x", [], Concurrency, Unique(), {}])
def test_limit_queue_takes_limits(value: Any) -> None:
    with pytest.raises(UsageError, match="limit_queue"):
        app().limit_queue("q", value)


@pytest.mark.parametrize(("name", "call"), [
    *[(f"enqueue_many {at}", lambda a, t, v=value: a.enqueue_many(v)) for at, value in enumerate(NOT_CALLS)],
    *[(f"group {at}", lambda a, t, v=value: a.group(v)) for at, value in enumerate([*NOT_CALLS, []])],
    *[(f"batch {at}", lambda a, t, v=value: a.batch(v)) for at, value in enumerate([*NOT_CALLS, []])],
    *[(f"chain {at}", lambda a, t, v=value: a.chain(v)) for at, value in enumerate([None, 5, "x"])],
    ("then", lambda a, t: a.group([t.call(1)], then=5)),
    ("on_failure", lambda a, t: a.group([t.call(1)], then=t.step(), on_failure="x")),
    ("success", lambda a, t: a.batch([t.call(1)], success="x")),
    ("another app", lambda a, t: a.enqueue_many([task_with(name="elsewhere").call(1)])),
    *[(f"queue {at}", lambda a, t, v=value: a.pause(queue=v)) for at, value in enumerate(NOT_A_NAME)],
    *[(f"task {at}", lambda a, t, v=value: a.resume(task=v)) for at, value in enumerate(NOT_A_NAME)],
    *[(f"queue {at}", lambda a, t, v=value: a.cancel_many(queue=v)) for at, value in enumerate(NOT_A_NAME)],
    ("queue=", lambda a, t: a.cancel_many()),
    *[(f"schedule {at}", lambda a, t, v=value: a.trigger(v)) for at, value in enumerate([*NOT_A_NAME, "unknown", None])],
    ("a function as job id", lambda a, t: a.job(len)),
    *[(f"timeout {at}", lambda a, t, v=value: a.job("x").result(v)) for at, value in enumerate(NOT_SECONDS)],
    *[(f"timeout {at}", lambda a, t, v=value: Group(jobs=(a.job("x"),)).results(v)) for at, value in enumerate(NOT_SECONDS)],
    *[(f"queues {at}", lambda a, t, v=value: a.run_worker(queues=v)) for at, value in enumerate([5, "default", [], [5], [""]])],
    *[(f"weight {at}", lambda a, t, v=value: a.run_worker(queues={"q": v})) for at, value in enumerate([0, -1, "x", NAN, True])],
    *[
        (f"queue {at}", lambda a, t, v=value: a.run_worker(queue_concurrency=v))
        for at, value in enumerate([5, ["default"], "default=1", {"default": 0}, {"default": "x"}, {"elsewhere": 1}])
    ],
    *[(f"burst {at}", lambda a, t, v=value: a.run_worker(burst=v)) for at, value in enumerate(NOT_A_FLAG)],
    *[(f"handle_signals {at}", lambda a, t, v=value: a.run_worker(handle_signals=v)) for at, value in enumerate(NOT_A_FLAG)],
    *[(f"concurrency {at}", lambda a, t, v=value: a.run_worker(concurrency=v)) for at, value in enumerate(["5", 0, -1, 1.5])],
    *[(f"task name {at}", lambda a, t, v=value: a.enqueue(v)) for at, value in enumerate([*NOT_A_NAME, None])],
    *[(f"argument {at}", lambda a, t, v=value: t.enqueue(v)) for at, value in enumerate(["x", None, 1.5, b"x", object(), HUGE])],
    ("argument", lambda a, t: t.enqueue(1, 2)),
    ("argument", lambda a, t: t.enqueue(unknown=1)),
    ("argument", lambda a, t: t.enqueue(**{"\ud800": 1})),
])  # fmt: skip
def test_a_call_that_can_not_be_meant_is_refused_before_anybody_is_asked(name: str, call: Any) -> None:
    with pytest.raises(TrackedQueueError) as found:
        run(call)
    said = str(found.value)
    word = name.split(" ")[0]
    assert word in said or "another" in said or "positional" in said, said


@pytest.mark.parametrize("value", NOT_AN_APP)
def test_include_takes_apps(value: Any) -> None:
    with pytest.raises(UsageError, match="include"):
        app().include(value)


def test_include_changes_nothing_when_it_refuses() -> None:
    main, sub = app(), app()
    main.task(name="b")(function)
    sub.task(name="a")(function)
    clash = sub.task(name="b")(function)
    sub.middleware(hook)
    with pytest.raises(UsageError, match="task called b"):
        main.include(sub)
    assert (
        [task.name for task in main.tasks] == ["b"] and not producer_of(main).definitions.hooks.run and clash.app is sub
    )


def test_include_loses_nothing_in_silence() -> None:
    main = app()
    for problem, sub in {
        "itself": main,
        "lifespan": TrackedQueue(lifespan=contextlib.asynccontextmanager(sub_async)),
        "namespace": TrackedQueue(namespace="elsewhere"),
    }.items():
        with pytest.raises(UsageError, match=problem):
            main.include(sub)
    variable: ContextVar[str] = ContextVar("tenant")
    sub = TrackedQueue(carry=[variable])
    main.include(sub)
    assert producer_of(main).definitions.hooks.carry == (variable,)
    with pytest.raises(UsageError, match="included"):
        main.include(sub)
    with pytest.raises(UsageError, match="included"):
        sub.task(name="late")
    with pytest.raises(UsageError, match="included"):
        sub.enqueue_sync("t")


async def sub_async() -> Any:
    yield


def test_a_context_anywhere_else_is_refused_at_the_decorator() -> None:
    async def second(n: int, context: JobContext[Any]) -> None: ...

    async def named(n: int, *, context: JobContext[Any]) -> None: ...

    async def maybe(context: JobContext[Any] | None, n: int) -> None: ...

    for wrong in (second, named, maybe):
        with pytest.raises(UsageError, match="context"):
            app().task()(wrong).takes_context


class Holder:
    async def method(self, n: int) -> None: ...


def test_what_is_no_function_of_the_module_is_refused() -> None:
    for wrong in (Holder.method, lambda: None, Holder, 5, sub_generator, sub_async, print):
        with pytest.raises(UsageError, match="can't be a task"):
            app().task()(wrong)
    with pytest.raises(UsageError, match="parentheses"):
        app().task(function)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="retries"):
        app().options(retries=3)  # type: ignore[call-arg]


class _Host:
    lease, state, max_payload = "w", None, 1000

    async def note(self, delivery: Any, kind: str, value: bytes) -> None: ...

    def opened(self, data: bytes) -> bytes:
        return data

    def extend(self, delivery: Any, seconds: float) -> None: ...

    def waits(self, delivery: Any, more: int) -> None: ...


class _Delivery:
    attempt, max_attempts, headers, tick_ms = 1, 1, {}, None  # type: ignore[var-annotated]
    id, task_name, queue, number, interruptions, recoveries, checkpoint = "j", "t", "q", 1, 0, 0, b""


@pytest.mark.parametrize(("word", "call"), [
    *[("done", lambda job, v=value: job.progress(v)) for value in ["50%", None, [1], NAN, INF, True, object()]],
    *[("total", lambda job, v=value: job.progress(1, v)) for value in ["x", NAN, True, object()]],
    *[("note", lambda job, v=value: job.progress(1, 2, v)) for value in [None, 5, b"x", ["x"]]],
    *[("text", lambda job, v=value: job.log(v)) for value in [None, 5, b"x", ["x"]]],
    *[("checkpoint", lambda job, v=value: job.checkpoint(v)) for value in [object(), {1, 2}, (1, 2), HUGE, lambda: None]],
    *[("every", lambda job, v=value: anext(job.each([1], v))) for value in [0, "2", None, True, 1.5]],
    *[("source", lambda job, v=value: anext(job.each(v))) for value in [None, 5]],
])  # fmt: skip
async def test_what_a_running_job_says_is_checked(word: str, call: Any) -> None:
    with pytest.raises(TrackedQueueError, match=word):
        await call(CurrentJob(_Delivery(), _Host()))


@pytest.mark.parametrize("value", [*NOT_SECONDS, 0, None])
def test_extend_timeout_takes_seconds(value: Any) -> None:
    with pytest.raises(UsageError, match="extend_timeout"):
        CurrentJob(_Delivery(), _Host()).extend_timeout(value)


def test_unknown_settings_are_named_wherever_they_are_given() -> None:
    wrong: Any = {"concurency": 5}
    with pytest.raises(UsageError, match="did you mean 'concurrency'"):
        TrackedQueue(**wrong)
    with pytest.raises(UsageError, match="did you mean 'concurrency'"):
        app().configure(**wrong)
    assert isinstance(app().options(delay=dt.timedelta(seconds=1)), NamedEnqueue)
