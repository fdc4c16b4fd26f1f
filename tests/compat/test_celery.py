"""Code that was written for Celery, on a real queue: what docs/how-to/celery.md promises."""

from __future__ import annotations

import asyncio
import copy
import datetime
import enum
import itertools
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from cronsim import CronSim

from tests.harness import running_worker, wait_until
from tracked_queue import ArgumentError, JobFailedError, Rate, State, TrackedQueue, UsageError
from tracked_queue.chaos.server import RedisServer
from tracked_queue.compat.celery import (
    AsyncResult,
    Celery,
    CeleryTask,
    MaxRetriesExceededError,
    chain,
    chord,
    crontab,
    current_app,
    group,
    shared_task,
    signature,
)
from tracked_queue.compat.celery import app as celery_app
from tracked_queue.compat.celery.beat import _planned, refused
from tracked_queue.compat.celery.options import Declared


@pytest.fixture(autouse=True)
def _none_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test is a process in which no `Celery` was made."""
    fresh = celery_app._Shared()
    monkeypatch.setattr(celery_app, "shared", fresh)
    yield


@pytest.fixture
def celery(app: TrackedQueue) -> Celery:
    return Celery(app)


async def ran(app: TrackedQueue, program: Callable[[], Any]) -> Any:
    """A program without an event loop, beside a worker."""
    async with running_worker(app):
        return await asyncio.to_thread(program)


async def test_delay_and_the_result(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def add(a: int, b: int = 1) -> int:
        return a + b

    @celery.task(name="async", bind=True)
    async def later(self: Any, n: int) -> list[Any]:
        return [n, self.request.retries, self.name]

    @celery.task
    def fails() -> None:
        raise ValueError("no")

    def program() -> None:
        result = add.delay(2, b=3)
        assert result.get(timeout=10) == 5 and result.state == "SUCCESS" and result.successful() and result.ready()
        again = celery.AsyncResult(result.id)
        assert again == result and again.result == 5 and add.AsyncResult(result.id).status == "SUCCESS"
        assert later.delay(4).get(10) == [4, 0, "async"]
        bad = fails.delay()
        with pytest.raises(JobFailedError, match="no") as raised:
            bad.get(10)
        assert raised.value.error_type == "ValueError"
        assert isinstance(bad.get(10, propagate=False), JobFailedError) and isinstance(bad.result, JobFailedError)
        assert bad.state == "FAILURE" and bad.failed() and "ValueError: no" in (bad.traceback or "")
        # As in Celery, an error that nothing names is not retried.
        assert bad.job.info_sync().state is State.FAILED and bad.job.info_sync().attempts == 1
        assert celery.AsyncResult("none").state == "PENDING" and celery.AsyncResult("none").result is None
        assert celery.send_task(add.name, (1,)).get(10) == 2
        waits = add.apply_async((1,), countdown=60)
        assert waits.state == "PENDING" and not waits.ready() and waits.result is None
        waits.revoke()
        assert waits.state == "REVOKED"

    await ran(app, program)
    assert add(2, 2) == 4 and add.name == "tests.compat.test_celery." + add.__qualname__


async def test_values_arrive_as_celery_s_json_has_them(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def echo(value: str, **more: Any) -> Any:  # a wrong annotation changes nothing: Celery does not look at it
        return [value, more, type(value).__name__]

    values: list[Any] = [
        1, None, 1.5, "ü", [1, [2]], {"a": {"b": 1}}, datetime.datetime(2030, 1, 2, 3, 4, 5, 6), datetime.date(2030, 1, 2),
        datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC), datetime.time(3, 4), Decimal("1.50"), uuid.UUID(int=7), b"\x00",
    ]  # fmt: skip

    def program() -> None:
        for value in values:
            assert echo.delay(value, key=value).get(10) == [value, {"key": value}, type(value).__name__]
        assert echo.delay((1, (2, 3))).get(10)[0] == [1, [2, 3]]
        with pytest.raises(ArgumentError, match="set"):
            echo.delay({1})
        with pytest.raises(ArgumentError, match="value"):
            echo.apply_async()

    await ran(app, program)


async def test_retries(app: TrackedQueue, celery: Celery) -> None:
    seen: list[Any] = []

    @celery.task(bind=True, max_retries=2, default_retry_delay=0)
    def asks(self: Any, how: str) -> Any:
        seen.append((how, self.request.retries, self.max_retries))
        if how == "plain":
            raise self.retry()
        if how == "caught":
            try:
                self.retry()
            except MaxRetriesExceededError:
                return "gave up"
        if how == "lower":
            self.retry(max_retries=1)
        if how == "higher":
            self.retry(max_retries=9)
        return self.retry(exc=KeyError(how), countdown=0)

    @celery.task(
        autoretry_for=(OSError,),
        dont_autoretry_for=(FileNotFoundError,),
        max_retries=2,
        retry_backoff=True,
        retry_backoff_max=0,
    )
    def by_itself(how: str) -> None:
        seen.append(how)
        raise {"os": ConnectionError, "file": FileNotFoundError, "value": ValueError}[how](how)

    def end(result: AsyncResult[Any]) -> Any:
        result.get(10, propagate=False)
        info = result.job.info_sync()
        return info.state, info.attempts, info.reason

    def program() -> None:
        state, attempts, reason = end(asks.delay("plain"))
        assert (state, attempts) == (State.DEAD, 3) and "retries are used up (2 of 2)" in reason
        assert end(asks.delay("error"))[:2] == (State.DEAD, 3)
        assert asks.delay("caught").get(10) == "gave up"
        assert end(asks.delay("lower"))[:2] == (State.FAILED, 2)
        state, attempts, reason = end(asks.delay("higher"))
        assert (state, attempts) == (State.DEAD, 3) and "write max_retries=9 at the task" in reason
        assert end(by_itself.delay("os"))[:2] == (State.DEAD, 3)
        assert end(by_itself.delay("file"))[:2] == (State.FAILED, 1)
        assert end(by_itself.delay("value"))[:2] == (State.FAILED, 1)

    await ran(app, program)
    assert [item for item in seen if item[0] == "plain"] == [("plain", n, 2) for n in range(3)]
    with pytest.raises(KeyError, match="direct"):
        asks("direct")
    with pytest.raises(RuntimeError, match="no job"):
        asks("plain")


async def test_giving_up_early_beats_what_is_said_of_the_class(app: TrackedQueue, celery: Celery) -> None:
    class Frozen(OSError):
        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("__t"):
                return super().__setattr__(name, value)
            raise AttributeError("frozen")

    runs: list[str] = []

    @celery.task(bind=True, max_retries=3, autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
    def lowers(self: Any) -> None:
        runs.append("lowers")
        self.retry(exc=OSError("x"), max_retries=1, countdown=-5)

    @celery.task(bind=True, max_retries=1, default_retry_delay=0)
    def idiom(self: Any) -> str:
        runs.append("idiom")
        try:
            raise self.retry(
                eta=datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(seconds=1)
            )
        except self.MaxRetriesExceededError:
            return "gave up"

    @celery.task(autoretry_for=(OSError,), max_retries=1, default_retry_delay=0)
    def frozen() -> None:
        runs.append("frozen")
        raise Frozen("mine")

    @celery.task(bind=True, max_retries=2)
    def inner(self: Any) -> None:
        assert self.request.called_directly and self.request.id is None
        self.retry(exc=KeyError("inner"))

    @celery.task(bind=True, max_retries=2)
    def outer(self: Any) -> str:
        try:
            inner()
        except KeyError:
            return "fell back"
        return "no"

    @celery.task(bind=True)
    def keeps(self: Any) -> int:
        self.count = getattr(self, "count", 0) + 1
        return self.count

    def program() -> None:
        assert lowers.delay().get(10, propagate=False) and idiom.delay().get(10) == "gave up"
        bad = frozen.delay()
        assert "mine" in str(bad.get(10, propagate=False)) and bad.job.info_sync().state is State.DEAD
        assert outer.delay().get(10) == "fell back"
        assert [keeps.delay().get(10) for _ in range(3)] == [1, 2, 3]

    await ran(app, program)
    assert runs == ["lowers"] * 2 + ["idiom"] * 2 + ["frozen"] * 2
    copied = copy.deepcopy(lowers.s(1))
    assert copied.task is lowers and copy.copy(lowers) is lowers


async def test_odd_shapes_of_functions_and_values(app: TrackedQueue, celery: Celery) -> None:
    class Choice(str, enum.Enum):  # noqa: UP042  (as Django's TextChoices)
        A = "a"

    @celery.task
    def one(value: Any = None) -> Any:
        return value

    @celery.task(ignore_result=True)
    def ignored(value: int) -> int:
        return value

    @celery.task
    def rest(*values: Any) -> list[Any]:
        return list(values)

    @celery.task(bind=True)
    def bound_rest(*values: Any) -> list[Any]:
        return list(values[1:])

    def program() -> None:
        assert chain(one.s(2), rest.s(3))().get(10) == [2, 3] and chord([one.s(1), one.s(2)])(rest.s()).get(10) == [
            [1, 2]
        ]
        assert bound_rest.delay(1, 2).get(10) == [1, 2]
        assert chain(ignored.s(2), one.s())().get(10) == 2 and chord([ignored.s(1)])(one.s()).get(10) == [1]
        assert one.delay(Choice.A).get(10) == "a"
        for odd in (
            {"__type__": ["x"], "__value__": 1},
            {"__type__": "uuid", "__value__": "x", "more": 1},
            {"__type__": 1},
        ):
            assert one.delay(odd).get(10) == odd
        given = uuid.uuid4()
        assert one.apply_async((1,), task_id=given, eta="2001-01-01T00:00:00", countdown=0).id == str(given)
        late = chain(one.s(1), one.s()).apply_async(countdown=60)
        assert late.state == "PENDING"
        several = group(one.s(1), one.s(2)).apply_async(countdown=60)
        assert several[0].job.info_sync().state is State.SCHEDULED

    await ran(app, program)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
async def test_times_without_a_zone_are_of_utc(
    app: TrackedQueue, celery: Celery, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:

        @celery.task
        def one() -> None: ...

        now = datetime.datetime.now(datetime.UTC)
        later = (now + datetime.timedelta(hours=1)).replace(tzinfo=None)
        made = one._with({"expires": later, "eta": later})._options
        assert 3500 < made.expires < 3700 and 3500 < (made.at - now).total_seconds() < 3700
        assert one._with({"expires": now.replace(tzinfo=None) - datetime.timedelta(hours=1)})._options.expires == 0.001
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_progress_of_any_shape(app: TrackedQueue, celery: Celery) -> None:
    seen = threading.Event()
    go = threading.Event()

    @celery.task(bind=True)
    def tells(self: Any) -> str:
        self.update_state(state="COPYING", meta={"step": "copy", "current": "many"})
        seen.set()
        go.wait(10)
        self.update_state()
        return "done"

    def program() -> None:
        result = tells.delay()
        seen.wait(10)
        assert result.state == "COPYING" and result.info == {"step": "copy", "current": "many"}
        go.set()
        assert result.get(10) == "done" and result.state == "SUCCESS"

    await ran(app, program)


async def test_what_the_request_knows(app: TrackedQueue, celery: Celery) -> None:
    @celery.task(bind=True, queue="mail")
    def tells(self: Any, a: int, b: int = 0) -> Any:
        self.update_state(state="half", meta={"current": 1, "total": 2})
        request = self.request
        known = [request.id, list(request.args), dict(request.kwargs), request.delivery_info.get("routing_key")]
        return [*known, request.task, dict(request.headers), request.hostname is not None, request.called_directly]

    def program() -> None:
        result = tells.apply_async((1,), {"b": 2}, task_id="mine", headers={"h": "x"})
        assert result.get(10) == ["mine", [1], {"b": 2}, "mail", tells.name, {"h": "x"}, True, False]
        progress = result.job.info_sync().progress
        assert progress is not None and (progress.done, progress.total) == (1, 2)
        assert tells.apply_async((1,), queue="other", countdown=60).job.info_sync().queue == "other"

    await ran(app, program)
    assert tells(1)[-1] is True


async def test_when_it_is_due_and_when_it_is_too_late(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def add(a: int) -> int:
        return a

    now = datetime.datetime.now(datetime.UTC)

    def program() -> None:
        for given in (
            {"countdown": 60}, {"eta": now + datetime.timedelta(seconds=60)},
            {"eta": (now + datetime.timedelta(seconds=60)).replace(tzinfo=None)},  # Celery takes it for UTC
        ):  # fmt: skip
            due = add.apply_async((1,), **given).job.info_sync().due_at
            assert due is not None and 50 < (due - now).total_seconds() < 70
        for expires in (0.001, now - datetime.timedelta(seconds=1)):
            late = add.apply_async((1,), expires=expires, countdown=0.05)
            assert late.get(10, propagate=False) is not None and late.state == "REVOKED"

    await ran(app, program)


async def test_the_simple_canvas(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def add(a: int, b: int) -> int:
        return a + b

    @celery.task
    def total(values: list[int], more: int = 0) -> int:
        return sum(values) + more

    @celery.task
    def fixed() -> str:
        return "fixed"

    def program() -> None:
        assert (add.s(1, 2) | add.s(10) | add.s(100)).delay().get(10) == 113
        assert chain(add.s(2), add.s(10))(1).get(10) == 13
        assert chain([add.s(1, 2), fixed.si()]).apply_async().get(10) == "fixed"
        members = group(add.s(n, n) for n in range(4))()
        assert members.get(10) == [0, 2, 4, 6] and members.successful() and members.completed_count() == 4
        assert chord([add.s(1, 1), add.s(2, 2)])(total.s(more=1)).get(10) == 7
        assert (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay().get(10) == 6
        assert chord((add.s(n, 0) for n in range(3)), fixed.si()).delay().get(10) == "fixed"
        assert add.s(2).set(countdown=0).clone((1,)).delay().get(10) == 3
        assert signature(add, (1, 2)).delay().get(10) == 3 and celery.signature(add.name, (1,))(5) == 6
        assert group().delay().get() == []

    await ran(app, program)
    for wrong in (
        lambda: chain(add.s(1, 1), group(add.s(1))), lambda: group(chain(add.s(1, 1))), lambda: chord([chain(add.s(1, 1))], total.s()),
        lambda: group([group(add.s(1, 1))]), lambda: chord([add.s(1, 1)], total.s()) | add.s(1), lambda: chain(add),
        lambda: group(chain(add.s(1, 1)), add.s(1, 1)), lambda: chord([])(total.s()), lambda: chain().delay(),
        lambda: chord([add.s(1, 1)])(), lambda: group(5),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rate_limit": "10/s"}, "options={'limit': Rate"), ({"priority": 3}, "queues"), ({"serializer": "pickle"}, "JSON"),
    ({"base": object}, "write a function"), ({"max_retrys": 3}, "max_retries"), ({"link": None}, "chain"),
    ({"options": {"queue": "x"}}, "unique"), ({"retry_kwargs": {"eta": 1}}, "max_retries or countdown"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), REFUSED)
async def test_what_has_no_counterpart_is_refused_where_it_is_written(
    celery: Celery, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match="(?s)" + says.replace("(", r"\(").replace("{", r"\{")):
        celery.task(**options)(plain_function)
    assert not celery.tasks


def plain_function() -> None: ...


async def test_wrong_uses_are_named(celery: Celery, app: TrackedQueue) -> None:
    @celery.task(acks_late=True, track_started=True)
    def add(a: int) -> int:
        return a

    for wrong, says in (
        (lambda: add.apply_async((1,), link=add.s()), "chain"), (lambda: add.apply_async((1,), priority=3), "queues"),
        (lambda: add.apply_async((1,), countdow=3), "countdown"), (lambda: celery.signature("none"), "no task 'none'"),
        (lambda: Celery("shop"), "takes the queue"), (lambda: celery.task(name="x")(5), "decorate a function"),
        (lambda: celery.task(bind=True)(plain_function), "takes none"), (lambda: AsyncResult(5), "give a job's id"),
        (lambda: add.apply_async((1,), retry=False), "enqueue_timeout"), (lambda: signature(5), "or its name"), (lambda: signature("x"), "no task 'x'"),
        (lambda: celery.autodiscover_tasks(["tests.nothing.here"]), "tests.nothing"),
    ):  # fmt: skip
        with pytest.raises((UsageError, ModuleNotFoundError), match=says):
            wrong()
    for missing in ("apply", "chunks", "replace", "nothing"):
        with pytest.raises(AttributeError, match=missing):
            getattr(add, missing)
    for missing in ("conf", "control", "nothing"):
        with pytest.raises(AttributeError, match=missing):
            getattr(celery, missing)


async def test_shared_tasks_wait_for_the_queue(app: TrackedQueue) -> None:
    @shared_task
    def early(n: int) -> int:
        return n

    @shared_task(bind=True, ignore_result=True)
    def bound(self: Any) -> int:
        return 1

    with pytest.raises(UsageError, match="there is no queue yet"):
        early.delay(1)
    assert early(3) == 3
    celery = Celery(app)

    @shared_task(name="late")
    def late(n: int) -> int:
        return n * 2

    assert isinstance(early, CeleryTask) and set(celery.tasks) == {early.name, bound.name, "late"}
    celery.autodiscover_tasks(["tests.compat"], related_name="isolated_tasks")

    def program() -> None:
        assert early.delay(1).get(10) == 1 and late.delay(2).get(10) == 4 and bound.delay().get(10) == 1

    await ran(app, program)


async def test_options_of_the_queue_go_beside_celery_s(app: TrackedQueue, celery: Celery) -> None:
    @celery.task(options={"unique": "until_done", "limit": Rate(100, 1)}, time_limit=5, expires=60)
    def once(n: int) -> int:
        return n

    def program() -> None:
        first, second = once.apply_async((1,), countdown=30), once.apply_async((1,), countdown=30)
        assert first.id == second.id

    await asyncio.to_thread(program)
    assert once.task.task_options.timeout == 5 and once.task.task_options.expires == 60
    # The task of the queue is there for all else.
    assert await (await once.task.options(delay=30).enqueue(2)).status() is State.SCHEDULED
    assert (await (await once.aapply_async((3,), countdown=30)).job.status()) is State.SCHEDULED


async def test_an_isolated_task_that_gives_up_is_dead(server: RedisServer, namespace: str) -> None:
    from tests.compat import isolated_tasks

    isolated_tasks.queue.configure(redis_url=server.url, namespace=namespace)

    def program() -> None:
        result = isolated_tasks.gives_up.delay()
        assert "used up (1 of 1)" in str(result.get(30, propagate=False))
        assert result.job.info_sync().state is State.DEAD

    try:
        await ran(isolated_tasks.queue, program)
    finally:
        await isolated_tasks.queue.aclose()


async def test_an_isolated_task_knows_its_request(server: RedisServer, namespace: str) -> None:
    from tests.compat import isolated_tasks

    isolated_tasks.queue.configure(redis_url=server.url, namespace=namespace)

    def program() -> None:
        result = isolated_tasks.apart.delay(3)
        doubled, pid, retries, id = result.get(30)
        assert (doubled, retries, id) == (6, 0, result.id) and pid != os.getpid()

    try:
        await ran(isolated_tasks.queue, program)
    finally:
        await isolated_tasks.queue.aclose()


async def test_the_beat_schedule_is_run_by_workers(app: TrackedQueue, capfd: pytest.CaptureFixture[str]) -> None:
    runs: list[Any] = []
    celery = Celery(
        app,
        timezone="Europe/Berlin",
        beat_schedule={
            "pulse": {"task": "pulse", "schedule": 1.0, "args": (7,), "kwargs": {"b": 8}, "options": {"expires": 30}},
            "slow": {"task": "pulse", "schedule": datetime.timedelta(hours=1), "options": {"queue": "other"}},
            "nightly": {"task": "pulse", "schedule": crontab(hour=3, minute=0)},
            "weekdays": {"task": "pulse", "schedule": crontab(minute="*/15", hour={9, 17}, day_of_week="mon-fri")},
            "missing": {"task": "nobody", "schedule": 5}, "odd": {"task": "pulse", "schedule": "daily"}, "none": {"schedule": 5},
            "priority": {"task": "pulse", "schedule": 5, "options": {"priority": 3}},
        },
    )  # fmt: skip

    @celery.task(name="pulse")
    def pulse(a: int = 0, b: int = 0) -> None:
        runs.append((a, b))

    async with running_worker(app):
        await wait_until(lambda: (7, 8) in runs)
        known = {item.name: item.rule for item in await app.read_schedules()}
    assert known == {
        "pulse": "every 1 s", "slow": "every 3600 s", "nightly": "0 3 * * * Europe/Berlin",
        "weekdays": "*/15 9,17 * * mon-fri Europe/Berlin",
    }  # fmt: skip
    logged = capfd.readouterr().out
    assert logged.count("schedule.refused") == 4
    for says in ("no task 'nobody'", "no task 'task'", "can be a crontab, seconds", "priority= has no counterpart"):
        assert says in logged, says


def test_crontabs() -> None:
    assert (
        crontab().expression == "* * * * *"
        and crontab(minute=0, hour="*/2", month_of_year=[3, 1]).expression == "0 */2 * 1,3 *"
    )
    assert crontab(0) == crontab(minute="0") and crontab(0) != crontab(1)
    with pytest.raises(UsageError, match="where both fit"):
        crontab(day_of_week=1, day_of_month=1)
    with pytest.raises(UsageError, match="a dict of entries"):
        Celery(TrackedQueue(), beat_schedule={"x": 5})  # type: ignore[dict-item]
    from celery.schedules import crontab as theirs  # type: ignore[import-untyped]

    planned = _planned(
        Celery(TrackedQueue()), "x", {"task": "t", "schedule": theirs(minute=5, hour=[1, 2], day_of_week="sun")}, "UTC"
    )
    assert planned.cron == "5 1,2 * * sun"


@pytest.mark.parametrize(
    "given",
    [
        {"hour": "22-6"}, {"minute": "50-10"}, {"month_of_year": "11-2"}, {"day_of_week": "fri-mon"}, {"day_of_week": "Sunday"},
        {"day_of_week": "tues,thurs"}, {"month_of_year": "january"}, {"day_of_week": "*/1", "day_of_month": 1},
        {"day_of_week": "0-6", "day_of_month": "*/5"}, {"minute": "*/7", "hour": "1-9/2,20"}, {"minute": [5, 1]},
        {"day_of_month": "1-31/10"}, {"hour": " 3 , 4 "},
    ],
    ids=str,
)  # fmt: skip
def test_a_crontab_runs_when_celery_s_does(given: dict[str, Any]) -> None:
    from celery.schedules import crontab as theirs

    rule, fields = theirs(**given), crontab(**given).expression.split()
    alone = ("{} * * * *", "0 {} * * *", "0 0 {} 1 *", "0 0 1 {} *", "0 0 * * {}")
    of: list[Callable[[datetime.datetime], int]] = [
        lambda at: at.minute, lambda at: at.hour, lambda at: at.day, lambda at: at.month, lambda at: at.isoweekday() % 7,
    ]  # fmt: skip
    wanted = [rule.minute, rule.hour, rule.day_of_month, rule.month_of_year, rule.day_of_week]
    for field, expression, part, numbers in zip(fields, alone, of, wanted, strict=True):
        moments = itertools.islice(
            CronSim(expression.format(field), datetime.datetime(2027, 1, 1) - datetime.timedelta(minutes=1)), 100
        )
        assert {part(moment) for moment in moments} == set(numbers), (field, numbers)


@pytest.mark.parametrize(
    "given", [{"hour": 24}, {"minute": "x"}, {"day_of_week": "someday"}, {"minute": "*/0"}, {"hour": "5/2"}], ids=str
)
def test_a_crontab_that_celery_refuses_is_refused_where_it_is_written(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(UsageError, match=name):
        crontab(**given)


async def test_an_id_is_the_one_that_celery_gives_it(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def square(n: int) -> int:
        return n * n

    @celery.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def program() -> None:
        assert chain(square.s(2), square.s()).apply_async(task_id="of-chain").get(10) == 16
        assert celery.AsyncResult("of-chain").get(10) == 16
        result = chord([square.s(n) for n in (1, 2, 3)], total.s()).apply_async(task_id="of-chord")
        assert result.id == "of-chord" and result.get(10) == 14
        with pytest.raises(UsageError, match=r"set\(task_id=\.\.\.\)"):
            group(square.s(n) for n in (1, 2, 3)).apply_async(task_id="of-group")
        own = group(square.s(n).set(task_id=f"own-{n}") for n in (1, 2)).delay()
        assert [one.id for one in own] == ["own-1", "own-2"] and own.get(10, interval=0.1) == [1, 4]

    await ran(app, program)


async def test_a_group_s_arguments_are_for_each_of_its_tasks(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def minus(a: int, b: int) -> int:
        return a - b

    @celery.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def program() -> None:
        assert group(minus.s(1), minus.s(2))(10).get(10) == [9, 8] == group(minus.s(1), minus.s(2)).delay(10).get(10)
        assert chord([minus.s(5, 1), minus.s(5, 2)])(total.s(), countdown=0).get(10) == 7

    await ran(app, program)


async def test_what_would_expire_before_its_turn_is_refused(app: TrackedQueue, celery: Celery) -> None:
    @celery.task
    def first() -> int:
        return 1

    @celery.task(expires=60)
    def brief(n: int) -> int:
        return n

    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    for whole in (
        chain(first.s(), brief.s()),
        chord([first.s()], brief.s()),
        chain(first.s(), first.si().set(expires=5)),
    ):
        with pytest.raises(UsageError, match="give a datetime"):
            whole.delay()
    assert brief.s().set(expires=later).as_step()


async def test_only_terminate_ends_a_running_job_whatever_it_has_said(app: TrackedQueue, celery: Celery) -> None:
    going = threading.Event()

    @celery.task(bind=True)
    def work(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"state": "Bavaria", "current": float("nan"), 5: [1]})
        assert going.wait(20)
        return "done"

    @celery.task(bind=True)
    def tell(self: Any) -> str:
        self.update_state(state="LONG", meta={"text": "x" * 5000, "current": 3})
        assert going.wait(20)
        return "told"

    def program() -> None:
        result, long = work.delay(), tell.delay()
        deadline = time.monotonic() + 20
        while (result.state, long.state) != ("PROGRESS", "LONG"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert result.info["state"] == "Bavaria" and long.info == {"current": 3, "total": None}
        result.revoke()
        going.set()
        assert result.get(10) == "done" and long.get(10) == "told"

    await ran(app, program)


async def test_values_travel_as_celery_s_json(app: TrackedQueue, celery: Celery) -> None:
    from django.utils.functional import lazystr
    from django.utils.safestring import mark_safe

    class Status(enum.IntEnum):
        NEW = 1

    class Part(float):
        pass

    @celery.task
    def echo(value: Any) -> Any:
        assert type(value) is dict and all(type(key) is str for key in value)
        return {2: value, True: Part(0.5)}

    given = {1: Status.NEW, None: lazystr("lazy"), False: mark_safe("<b>"), 1.5: Part(2.5)}
    arrived = {"1": 1, "null": "lazy", "false": "<b>", "1.5": 2.5}
    assert await ran(app, lambda: echo.delay(given).get(10)) == {"2": arrived, "true": 0.5}


async def test_the_current_app_is_the_first_one(app: TrackedQueue) -> None:
    with pytest.raises(UsageError, match="there is no queue yet"):
        AsyncResult("id")
    own = Celery(app)

    @shared_task
    def add(a: int, b: int) -> int:
        return a + b

    assert current_app.queue is app and current_app.tasks == own.tasks
    name = add.name

    def program() -> None:
        result = current_app.send_task(name, (1, 2))
        assert AsyncResult(result.id).get(10) == 3 and signature(name, (3,)).delay(4).get(10) == 7

    await ran(app, program)


def test_what_is_not_there_says_what_to_write() -> None:
    with pytest.raises(ImportError, match="CancelledError"):
        from tracked_queue.compat.celery import SoftTimeLimitExceeded  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        from tracked_queue.compat.celery import Nothing  # noqa: F401


def test_entries_that_no_worker_would_run_are_told() -> None:
    app = Celery(TrackedQueue())

    @app.task(name="known")
    def known() -> None: ...

    entries = {
        "well": {"task": "known", "schedule": 5.0},
        "gone": {"task": "shop.gone", "schedule": crontab(hour=3)},
        "rule": {"task": "known", "schedule": "daily"},
        "option": {"task": "known", "schedule": 5.0, "options": {"priority": 3}},
    }
    found = refused(app, entries)
    assert set(found) == {"gone", "rule", "option"} and "shop.gone" in found["gone"] and "queues" in found["option"]


async def test_a_task_of_another_program_is_sent_by_name(app: TrackedQueue, celery: Celery) -> None:
    result = await asyncio.to_thread(
        celery.send_task, "elsewhere.pay", (1,), {"on": datetime.date(2027, 1, 1)}, queue="mail", task_id="i"
    )
    info = await result.job.info()
    assert (info.task, info.queue, info.id) == ("elsewhere.pay", "mail", "i") and info.args == (1,)
    assert info.kwargs == {"on": {"__type__": "date", "__value__": "2027-01-01"}}


def test_delays_grow_as_celery_s_do() -> None:
    random.seed(1)
    error = ValueError()
    grows = Declared(backoff=2, backoff_max=10, jitter=False)
    assert [grows.delay(n, error) for n in (1, 2, 3, 4, 100)] == [2, 4, 8, 10, 10]
    spread = Declared(backoff=2, backoff_max=10)
    assert all(0 <= float(str(spread.delay(3, error))) <= 8 for _ in range(100))
    assert Declared(countdown=7).delay(1, error) == 7 and Declared().delay(1, error) == 180
    assert Declared(max_retries=None).max_attempts > 1000
