"""Jobs that the real producers of other queues have written; `make test-migrate` makes an environment for each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import redis
from tests.harness import running_worker
from tests.migrate import peers
from tracked_queue import State, TrackedQueue, UnreadableCallError, UsageError
from tracked_queue.chaos.server import RedisServer
from tracked_queue.migrate import Bridge, Report, source_of
from tracked_queue.migrate import celery as celery_module
from tracked_queue.migrate.pickles import read
from tracked_queue.migrate.scan import scan

ENVIRONMENTS = Path(os.environ.get("TEST_MIGRATE", Path(__file__).parent.parent.parent / ".olds"))


# huey puts the module before a task's name.
NAMES = {"huey": {"__main__.shop.add": "shop.add"}}


def python(name: str) -> str:
    found = ENVIRONMENTS / name / "bin" / "python"
    assert found.exists(), f"no environment with {name}: run `make test-migrate`"
    return str(found)


@pytest.fixture(scope="session")
def old_server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.close()


@pytest.fixture
def old(old_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(old_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
async def shop(app: TrackedQueue) -> AsyncIterator[TrackedQueue]:
    @app.task(name="shop.add", keep_result=True)
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @app.task(name="shop.typed")
    async def typed(at: datetime, amount: Decimal | str, id: uuid.UUID) -> str:
        return f"{at.isoformat()} {amount} {id}"

    yield app


def write(name: str, program: str, server: RedisServer, how: str = "write") -> list[str]:
    done = subprocess.run(
        [python(name), "-c", program, how, server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@contextmanager
def worker_of(name: str, program: str, server: RedisServer, how: str, folder: Path) -> Iterator[Path]:
    """A worker of another queue, killed at the end; what it wrote."""
    log = folder / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen([python(name), "-c", program, how, server.url], stdout=out, stderr=out)
    try:
        yield log
    finally:
        worker.kill()
        worker.wait()


async def until(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, log.read_text()
        await asyncio.sleep(0.05)


async def drained(shop: TrackedQueue, name: str, server: RedisServer, *, dry: bool = False, **more: Any) -> Report:
    source = source_of(name, server.url, stopped=more.pop("stopped", False))
    try:
        bridge = Bridge(shop, source, **more)
        return await (bridge.plan() if dry else bridge.drain())
    finally:
        await source.close()


async def full_ids(shop: TrackedQueue) -> dict[str, str]:
    """The ids here of all jobs, by those there: what follows is a digest of the call."""
    found = {}
    for state in ("queued", "scheduled", "active", "succeeded"):
        for row in (await shop.operator.jobs(state)).rows:
            found[row.id.rpartition(":")[0]] = row.id
    return found


def contents(old: redis.Redis) -> dict[bytes, Any]:
    """All keys. Not DUMP: two of one hash differ while Redis moves it into a larger table."""
    read: dict[Any, Callable[[bytes], Any]] = {
        b"string": old.get, b"hash": old.hgetall, b"set": old.smembers, b"list": lambda key: old.lrange(key, 0, -1),
        b"zset": lambda key: old.zrange(key, 0, -1, withscores=True), b"stream": old.xrange,
    }  # fmt: skip
    return {key: read[old.type(key)](key) for key in old.scan_iter()}


async def test_celery(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    ids = write("celery", peers.CELERY, old_server)
    await asyncio.sleep(0.01)  # one has expired
    before = contents(old)
    plan = await drained(shop, "celery", old_server, dry=True)
    assert contents(old) == before
    assert set(plan.queues) == {"celery", "mail"}
    report = await drained(shop, "celery", old_server)
    for found in (plan, report):
        add = found.of("shop.add")
        # 5, a delayed one, one of another queue, one of another priority, and a pickle of plain data.
        assert add.moved == 9 and found.of("shop.typed").moved == 1
        assert add.first_due is not None and 3000 < add.first_due.timestamp() - time.time() < 3700
        reasons = " ".join([*add.left, *found.of("shop.gone").left])
        assert "expired" in reasons and "canvas (chain)" in reasons and "no task 'shop.gone'" in reasons
        assert found.left == 3
    assert old.llen("celery") == 3 and old.llen("mail") == 0
    assert not [key for key in old.scan_iter() if b"migration" in key]
    again = await drained(shop, "celery", old_server)
    assert (again.moved, again.left) == (0, 3)
    async with running_worker(shop):
        full = await full_ids(shop)
        for n, id in enumerate(ids[:5]):
            assert await shop.job(full[f"celery:{id}"]).result(10) == n + 1
        assert (await shop.job(full[f"celery:{ids[5]}"]).info()).state is State.SCHEDULED
        (typed,) = (await shop.operator.jobs("succeeded", task="shop.typed")).rows
        assert await shop.job(typed.id).result(1) == f"2030-01-02T00:00:00+00:00 1.5 {uuid.UUID(int=7)}"


async def test_celery_s_workers_hold_jobs_until_they_are_stopped(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, tmp_path: Path
) -> None:
    @shop.task(name="shop.slow")
    async def slow(n: int) -> None: ...

    @shop.task(name="shop.retries")
    async def retries(n: int) -> None: ...

    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [python("celery"), "-c", peers.CELERY, "work", old_server.url], stdout=log, stderr=log
        )
    try:
        write("celery", peers.CELERY, old_server, "hold")
        until = time.monotonic() + 30
        while old.hlen("unacked") < 3 or old.llen("celery"):
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        held = await drained(shop, "celery", old_server)
        assert held.moved == 0 and held.left >= 3
        assert all("--workers-stopped" in why for of in held.tasks.values() for why in of.left)
    finally:
        worker.kill()
        worker.wait()
    report = await drained(shop, "celery", old_server, stopped=True)
    assert {of.name: of.moved for of in report.tasks.values()} == {"shop.add": 1, "shop.slow": 1, "shop.retries": 1}
    assert old.hlen("unacked") == 0
    again = await drained(shop, "celery", old_server, stopped=True)
    assert again.moved == again.left == 0


async def test_rq(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    ids = write("rq", peers.RQ, old_server)
    before = contents(old)
    plan = await drained(shop, "rq", old_server, dry=True)
    assert contents(old) == before
    report = await drained(shop, "rq", old_server)
    for found in (plan, report):
        assert found.of("shop.add").moved == 8 and found.of("shop.typed").moved == 1
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "builtins.slice" in reasons and "waits for another job" in reasons and "no task 'shop.gone'" in reasons
        assert found.left == 3
    assert not old.exists(f"rq:job:{ids[0]}") and old.llen("rq:queue:default") == 2
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"rq:{id}"]).result(10) for id in ids[:6]] == [1, 2, 3, 4, 5, 8]
        later = await shop.job(full[f"rq:{ids[6]}"]).info()
        assert later.state is State.SCHEDULED and later.due_at is not None
        assert 3000 < later.due_at.timestamp() - time.time() < 3700


async def test_arq(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    write("arq", peers.ARQ, old_server)
    before = contents(old)
    plan = await drained(shop, "arq", old_server, dry=True)
    assert contents(old) == before
    report = await drained(shop, "arq", old_server)
    for found in (plan, report):
        assert found.of("shop.add").moved == 7
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "builtins.slice" in reasons and "no task 'shop.gone'" in reasons and found.left == 2
    assert old.zcard("arq:queue") == 2
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"arq:a{n}"]).result(10) for n in range(5)] == [1, 2, 3, 4, 5]
        later = await shop.job(full["arq:later"]).info()
        assert later.due_at is not None and 3000 < later.due_at.timestamp() - time.time() < 3700


async def test_an_arq_worker_beside_the_bridge_runs_no_job_that_was_moved(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, tmp_path: Path
) -> None:
    write("arq", peers.ARQ, old_server)
    with (tmp_path / "out").open("wb") as out:
        worker = subprocess.Popen(
            [python("arq"), "-c", peers.ARQ_WORKER, "work", old_server.url], stdout=out, stderr=out
        )
    moved = []
    for _ in range(100):
        report = await drained(shop, "arq", old_server)
        moved.append(report.of("shop.add").moved)
        if worker.poll() is not None:
            break
        await asyncio.sleep(0.02)
    worker.kill()
    worker.wait()
    ran = (tmp_path / "out").read_text().count("RAN")
    assert ran + sum(moved) == 7, (tmp_path / "out").read_text()


@pytest.mark.parametrize("name", ["celery", "rq", "arq", "dramatiq", "saq", "huey", "taskiq"])
@pytest.mark.parametrize("step", ["claimed", "stored"])
async def test_a_bridge_that_dies_is_run_again(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, name: str, step: str
) -> None:
    program = getattr(peers, name.upper())
    write(name, program, old_server)
    source = source_of(name, old_server.url)
    names = NAMES.get(name, {})
    wanted = (await Bridge(shop, source, names).plan()).moved
    assert wanted

    class Dies(Exception):
        pass

    if step == "stored":

        async def forget(items: Any) -> None:
            raise Dies

        source.forget = forget  # type: ignore[method-assign]
        with pytest.raises(Dies):
            await Bridge(shop, source, names).drain()
    else:
        away = TrackedQueue("redis://127.0.0.1:1", enqueue_timeout=0.1)
        for task in shop.tasks:
            away.task(name=task.name)(task.function)
        with pytest.raises(Exception, match="Error 111|refused|Connect"):
            await Bridge(away, source, names).drain()
        await away.aclose()
    await source.close()
    report = await drained(shop, name, old_server, names=names)
    assert report.moved == wanted
    queued = (await shop.operator.queues()).queues
    scheduled = len((await shop.operator.jobs("scheduled")).rows)
    assert sum(queue.length for queue in queued) + scheduled == wanted
    assert (await drained(shop, name, old_server, names=names)).moved == 0
    assert not [key for key in old.scan_iter() if b"migration" in key]


async def test_names_and_queues_are_mapped(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    ids = write("celery", peers.CELERY, old_server)

    @shop.task(name="new.gone")
    async def gone() -> None: ...

    with pytest.raises(UsageError, match="no task 'nowhere'"):
        await drained(shop, "celery", old_server, names={"shop.gone": "nowhere"})
    report = await drained(shop, "celery", old_server, names={"shop.gone": "new.gone"}, keep_queues=True)
    assert report.of("shop.gone").moved == 1
    full = await full_ids(shop)
    assert (await shop.job(full[f"celery:{ids[6]}"]).info()).queue == "mail"
    assert f"celery:{ids[7]}" not in full  # had expired


def test_unknown_sources_are_named() -> None:
    with pytest.raises(UsageError, match="celery, rq, arq, dramatiq, saq, huey, taskiq"):
        source_of("celry", "redis://x")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/tracked_queue_evil",)


@pytest.mark.parametrize(
    "value",
    [Evil(), [1, {"a": Evil()}], os.system, print, Path("/"), slice(1), RuntimeError("x"), type, sys],
)
def test_a_pickle_that_could_run_something_is_refused(value: Any) -> None:
    try:
        data = pickle.dumps(value)
    except TypeError:
        data = b"csys\nmodules\n."
    with pytest.raises(UnreadableCallError):
        read(data)
    assert not Path("/tmp/tracked_queue_evil").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_plain_data_are_read(protocol: int) -> None:
    import datetime as dt
    import uuid

    value = {
        "a": [1, -(2**70), 1.5, None, True, "ü", b"\x00", (1, 2), {3}, frozenset({4}), bytearray(b"x"), 1j],
        "at": dt.datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        "for": dt.timedelta(days=1),
        "amount": Decimal("1.50"),
        "id": uuid.UUID(int=5),
    }
    try:
        found = read(pickle.dumps(value, protocol))
    except UnreadableCallError as error:
        assert protocol < 3 and "not read" in str(error)  # older ones go through helper functions
    else:
        assert found == value
    for cut in (b"", b"\x80", pickle.dumps(value)[:20], b"nonsense", b"I" + b"9" * 10_000):
        with pytest.raises(UnreadableCallError):
            read(cut)


async def test_dramatiq(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, tmp_path: Path) -> None:
    ids = write("dramatiq", peers.DRAMATIQ, old_server)
    before = contents(old)
    plan = await drained(shop, "dramatiq", old_server, dry=True)
    assert contents(old) == before
    report = await drained(shop, "dramatiq", old_server)
    for found in (plan, report):
        assert found.of("shop.add").moved == 7
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "pipe_target" in reasons and "no task 'shop.gone'" in reasons and found.left == 2
    assert old.hlen("dramatiq:default.msgs") == 2
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"dramatiq:{id}"]).result(10) for id in ids[:6]] == [1, 2, 3, 4, 5, 8]
        later = await shop.job(full[f"dramatiq:{ids[6]}"]).info()
        assert later.due_at is not None and 3000 < later.due_at.timestamp() - time.time() < 3700
    old.flushall()
    write("dramatiq", peers.DRAMATIQ, old_server)
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [python("dramatiq"), "-c", peers.DRAMATIQ_WORKER, "w", old_server.url], stdout=log, stderr=log
        )
    until = time.monotonic() + 30
    while (
        old.llen("dramatiq:default.DQ") or old.llen("dramatiq:default") > 6
    ):  # it fetches four of these, and all delayed
        assert time.monotonic() < until, (tmp_path / "log").read_text()
        await asyncio.sleep(0.05)
    held = await drained(shop, "dramatiq", old_server)
    worker.kill()
    worker.wait()
    rest = await drained(shop, "dramatiq", old_server, stopped=True)
    assert "--workers-stopped" in " ".join(held.of("shop.add").left)
    assert rest.of("shop.add").moved >= 1 and held.of("shop.add").moved + rest.of("shop.add").moved == 7


async def test_huey(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    ids = write("huey", peers.HUEY, old_server)
    before = contents(old)
    plan = await drained(shop, "huey", old_server, dry=True, names=NAMES["huey"])
    assert contents(old) == before
    report = await drained(shop, "huey", old_server, names=NAMES["huey"])
    for found in (plan, report):
        assert found.of("__main__.shop.add").moved == 7, found
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "builtins.slice" in reasons and "pipeline" in reasons and "no task '__main__.shop.gone'" in reasons
        assert found.left == 3
    assert old.llen("huey.redis.shop") == 3
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"huey:{id}"]).result(10) for id in ids[:6]] == [1, 2, 3, 4, 5, 8]
        later = await shop.job(full[f"huey:{ids[6]}"]).info()
        assert later.due_at is not None and 3000 < later.due_at.timestamp() - time.time() < 3700


async def test_saq(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, tmp_path: Path) -> None:
    write("saq", peers.SAQ, old_server)
    before = contents(old)
    plan = await drained(shop, "saq", old_server, dry=True)
    assert contents(old) == before
    report = await drained(shop, "saq", old_server)
    for found in (plan, report):
        assert found.of("shop.add").moved == 7
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "@app.cron" in reasons and "no task 'shop.gone'" in reasons and found.left == 2
    assert old.llen("saq:default:queued") == 1 and old.zcard("saq:default:incomplete") == 2
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"saq:default:s{n}"]).result(10) for n in range(5)] == [1, 2, 3, 4, 5]
        later = await shop.job(full["saq:default:later"]).info()
        assert later.due_at is not None and 3000 < later.due_at.timestamp() - time.time() < 3700
    old.flushall()
    write("saq", peers.SAQ, old_server)
    with worker_of("saq", peers.SAQ_WORKER, old_server, "hold", tmp_path) as log:
        await until(lambda: log.read_text().count("RAN") == 2, log)
        held = await drained(shop, "saq", old_server)
    rest = await drained(shop, "saq", old_server, stopped=True)
    assert held.of("shop.add").moved == 5 and "--workers-stopped" in " ".join(held.of("shop.add").left)
    # SAQ's own sweep takes a job that is about to begin for a lost one, now and then.
    assert rest.of("shop.add").moved in (1, 2) and old.llen("saq:default:active") == 0


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_taskiq(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, tmp_path: Path, kind: str) -> None:
    ids = write("taskiq", peers.TASKIQ, old_server, f"write {kind}")
    before = contents(old)
    plan = await drained(shop, "taskiq", old_server, dry=True, stopped=True)
    assert contents(old) == before
    careful = await drained(shop, "taskiq", old_server)
    assert "stop the scheduler" in " ".join(careful.of("shop.add").left) and careful.of("shop.add").moved == 6
    report = await drained(shop, "taskiq", old_server, stopped=True)
    assert plan.of("shop.add").moved == 7 and report.of("shop.add").moved == 1
    for found in (plan, report):
        reasons = " ".join(why for of in found.tasks.values() for why in of.left)
        assert "@app.cron" in reasons and "no task 'shop.gone'" in reasons and found.left == 2
        assert found.queues == ("shop",)
    async with running_worker(shop):
        full = await full_ids(shop)
        assert [await shop.job(full[f"taskiq:{id}"]).result(10) for id in ids[:6]] == [1, 2, 3, 4, 5, 8]
        later = await shop.job(full[f"taskiq:{ids[6]}"]).info()
        assert later.due_at is not None and 3000 < later.due_at.timestamp() - time.time() < 3700
    assert (await drained(shop, "taskiq", old_server, stopped=True)).moved == 0
    assert not list(old.scan_iter("schedule:time:*"))
    old.flushall()
    write("taskiq", peers.TASKIQ, old_server, f"write {kind}")
    with worker_of("taskiq", peers.TASKIQ, old_server, f"work hold {kind}", tmp_path) as log:
        await until(lambda: log.read_text().count("RAN") == 2, log)
        held = await drained(shop, "taskiq", old_server)
    rest = await drained(shop, "taskiq", old_server, stopped=True)
    ran = log.read_text().count("RAN")
    if kind == "stream":  # what is read and not acknowledged is still there, the two that began among it
        assert held.of("shop.add").moved + rest.of("shop.add").moved == 7
        assert "a taskiq worker has read it" in " ".join(held.of("shop.add").left)
    else:  # what a worker of a list had fetched is gone with it
        assert held.of("shop.add").moved + rest.of("shop.add").moved <= 7 - ran


async def test_a_stream_that_two_groups_read_is_left_to_them(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis
) -> None:
    write("taskiq", peers.TASKIQ, old_server, "write stream")
    old.xgroup_create("shop", "others", "0")
    report = await drained(shop, "taskiq", old_server)
    assert report.moved == 0 and "2 groups" in " ".join(report.of("shop.add").left)


@pytest.mark.parametrize(
    ("name", "how", "fetch"),
    [
        ("celery", "write", lambda old: old.rpop("celery")),
        ("rq", "write", lambda old: old.lpop("rq:queue:default")),
        ("arq", "write", lambda old: old.set("arq:in-progress:a0", "1")),
        ("dramatiq", "write", lambda old: old.lpop("dramatiq:default")),
        ("saq", "write", lambda old: old.lmove("saq:default:queued", "saq:default:active", "LEFT", "RIGHT")),
        ("huey", "write", lambda old: old.rpop("huey.redis.shop")),
        ("taskiq", "write list", lambda old: old.rpop("shop")),
        ("taskiq", "write stream", lambda old: old.xreadgroup("taskiq", "worker", {"shop": ">"}, count=1)),
    ],
)
async def test_what_a_worker_takes_between_the_look_and_the_claim_is_its_own(
    shop: TrackedQueue,
    old_server: RedisServer,
    old: redis.Redis,
    name: str,
    how: str,
    fetch: Callable[[redis.Redis], Any],
) -> None:
    write(name, getattr(peers, name.upper()), old_server, how)
    source = source_of(name, old_server.url)
    read = source.found

    async def slow(queues: Sequence[str]) -> AsyncIterator[Any]:
        items = [item async for item in read(queues)]
        fetch(old)
        for item in items:
            yield item

    source.found = slow  # type: ignore[method-assign]
    names = NAMES.get(name, {})
    wanted = (await drained(shop, name, old_server, dry=True, names=names)).moved
    report = await Bridge(shop, source, names).drain()
    await source.close()
    taken = sum(of.left["a worker there has taken it meanwhile, and runs it"] for of in report.tasks.values())
    assert (report.moved, taken) == (wanted - 1, 1)


SAME_ID = {
    "celery": """
from celery import Celery
app = Celery("shop", broker=sys.argv[2])
for task, n in (("shop.add", 1), ("shop.add", 2), ("shop.mail", 1), ("shop.add", 1)):
    app.send_task(task, (n,), task_id="refresh-42")
""",
    "taskiq": """
import asyncio
from taskiq_redis import ListQueueBroker
broker = ListQueueBroker(url=sys.argv[2], queue_name="shop")
@broker.task(task_name="shop.add")
async def add(a): ...
@broker.task(task_name="shop.mail")
async def mail(a): ...
async def main():
    await broker.startup()
    for n in (1, 2, 1):
        await add.kicker().with_task_id("refresh-42").kiq(n)
    await mail.kicker().with_task_id("refresh-42").kiq(1)
    await broker.shutdown()
asyncio.run(main())
""",
}


@pytest.mark.parametrize("name", sorted(SAME_ID))
async def test_calls_that_share_an_id_are_jobs_of_their_own(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, name: str
) -> None:
    """Three that differ, and one that is there twice, as after a second delivery."""

    @shop.task(name="shop.mail")
    async def mail(n: int) -> None: ...

    write(name, "import sys\n" + SAME_ID[name], old_server)
    assert (await drained(shop, name, old_server)).moved == 4
    waiting = sum(queue.length for queue in (await shop.operator.queues()).queues)
    assert waiting == 3 and not [key for key in old.scan_iter() if b"migration" in key]


REWRITE = {
    "rq": """
import sys
from redis import Redis
from rq import Queue
Queue("default", connection=Redis.from_url(sys.argv[2])).enqueue("shop.add", int(sys.argv[1]), job_id="refresh-42")
""",
    "arq": """
import sys, asyncio
from arq import create_pool
from arq.connections import RedisSettings
async def main():
    pool = await create_pool(RedisSettings.from_dsn(sys.argv[2]))
    assert await pool.enqueue_job("shop.add", int(sys.argv[1]), _job_id="refresh-42")
    await pool.aclose()
asyncio.run(main())
""",
    "saq": """
import sys, asyncio
from saq import Queue
async def main():
    queue = Queue.from_url(sys.argv[2])
    assert await queue.enqueue("shop.add", a=int(sys.argv[1]), key="refresh-42")
    await queue.disconnect()
asyncio.run(main())
""",
}
# What a worker of theirs does with the job that waits, to its end.
DONE: dict[str, Callable[[redis.Redis], Any]] = {
    "rq": lambda old: (old.lpop("rq:queue:default"), old.delete("rq:job:refresh-42")),
    "arq": lambda old: (old.zrem("arq:queue", "refresh-42"), old.delete("arq:job:refresh-42")),
    "saq": lambda old: (
        old.lpop("saq:default:queued"), old.zrem("saq:default:incomplete", "saq:job:default:refresh-42"),
        old.delete("saq:job:default:refresh-42"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REWRITE))
@pytest.mark.parametrize("step", ["claim", "forget"])
async def test_a_producer_that_uses_an_id_again_meanwhile_loses_nothing(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, name: str, step: str
) -> None:
    """Its worker runs the first call before the claim, or the bridge has claimed it: the second one is moved, once."""
    write(name, REWRITE[name], old_server, "1")
    source = source_of(name, old_server.url)
    claim, forget = source.claim, source.forget

    async def late_claim(items: Any) -> list[bool]:
        if step == "claim":
            DONE[name](old)
            write(name, REWRITE[name], old_server, "2")
        return await claim(items)

    async def late_forget(items: Any) -> None:
        if step == "forget":
            old.delete("arq:in-progress:refresh-42")
            write(name, REWRITE[name], old_server, "2")
        await forget(items)

    source.claim, source.forget = late_claim, late_forget  # type: ignore[method-assign]
    first = await Bridge(shop, source).drain()
    await source.close()
    second = await drained(shop, name, old_server)
    assert (first.moved, second.moved) == ((0, 1) if step == "claim" else (1, 1))
    moved = [(await shop.job(id).info()) for id in (await full_ids_of(shop))]
    assert sorted((info.args or (0,))[0] if info.args else (info.kwargs or {})["a"] for info in moved) == (
        [2] if step == "claim" else [1, 2]
    )


async def full_ids_of(shop: TrackedQueue) -> list[str]:
    return [row.id for row in (await shop.operator.jobs("queued")).rows]


async def test_what_a_taskiq_worker_has_run_is_not_moved_again(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis
) -> None:
    write("taskiq", peers.TASKIQ, old_server, "write stream")
    (group,) = old.xinfo_groups("shop")
    read: Any = old.xreadgroup(group["name"], "worker", {"shop": ">"}, count=100)
    for id, _ in read[0][1]:
        old.xack("shop", group["name"], id)
    assert (await drained(shop, "taskiq", old_server, dry=True)).of("shop.add").moved == 0
    old.xgroup_create("shop", "others", "$")
    two = await drained(shop, "taskiq", old_server)
    assert "2 groups" not in " ".join(two.of("shop.add").left)
    for name in (group["name"], "others"):
        old.xgroup_destroy("shop", name)
    none = await drained(shop, "taskiq", old_server)
    assert none.moved == 0 and "nobody knows" in " ".join(none.of("shop.add").left)


async def test_a_job_that_saq_retries_is_left_to_its_worker(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis
) -> None:
    write("saq", REWRITE["saq"], old_server, "1")
    key = "saq:job:default:refresh-42"
    record = {**json.loads(old.get(key) or b"{}"), "status": "active", "attempts": 2}
    old.set(key, json.dumps(record))
    old.lmove("saq:default:queued", "saq:default:active", "LEFT", "RIGHT")
    old.zadd("saq:default:incomplete", {key: time.time() - 1})
    report = await drained(shop, "saq", old_server)
    assert report.moved == 0 and "runs it" in " ".join(report.of("shop.add").left)


async def test_one_odd_due_time_stops_nothing(shop: TrackedQueue, old_server: RedisServer, old: redis.Redis) -> None:
    write("saq", peers.SAQ, old_server)
    old.zadd("saq:default:incomplete", {"saq:job:default:later": time.time() * 1000})
    report = await drained(shop, "saq", old_server)
    assert report.of("shop.add").moved == 6 and "no date" in " ".join(report.of("shop.add").left)


async def test_a_queue_of_taskiq_is_found_behind_what_can_t_be_read(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis
) -> None:
    write("taskiq", peers.TASKIQ, old_server, "write list")
    old.rpush("shop", b"nonsense")
    old.lpush("other", b"nonsense")
    report = await drained(shop, "taskiq", old_server)
    assert report.queues == ("shop",) and report.of("shop.add").moved == 6 and report.of("").left.total() == 1


async def test_celery_s_typed_arguments_fit_tasks_of_compat(
    old_server: RedisServer, old: redis.Redis, app: TrackedQueue
) -> None:
    from tracked_queue.compat.celery import Celery

    celery = Celery(app)

    @celery.task(name="shop.typed")
    def typed(at: Any, amount: Any, id: Any) -> list[Any]:
        return [type(at).__name__, type(amount).__name__, type(id).__name__]

    write("celery", peers.CELERY, old_server)
    assert (await drained(app, "celery", old_server)).of("shop.typed").moved == 1
    async with running_worker(app):
        (row,) = (await app.operator.jobs("queued")).rows or (await app.operator.jobs("succeeded")).rows
        assert await app.job(row.id).result(10) == ["datetime", "Decimal", "UUID"]


@pytest.mark.parametrize("name", ["arq", "saq"])
async def test_an_id_that_is_used_again_there_is_a_job_of_its_own(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, name: str
) -> None:
    for _ in range(2):
        write(name, getattr(peers, name.upper()), old_server)
        assert (await drained(shop, name, old_server)).of("shop.add").moved == 7
        old.flushall()
    waiting = sum(queue.length for queue in (await shop.operator.queues()).queues)
    assert waiting + len((await shop.operator.jobs("scheduled")).rows) == 14


def test_the_command_says_what_it_would_do_and_does_it(
    old_server: RedisServer, old: redis.Redis, server: RedisServer, namespace: str
) -> None:
    write("rq", peers.RQ, old_server)
    env = {**os.environ, "REDIS_URL": server.url, "PROCESSING_NS": namespace}
    command = [
        sys.executable,
        "-m",
        "tracked_queue",
        "migrate",
        "rq",
        "tests.migrate.shop_app:app",
        "--from",
        old_server.url,
    ]

    def ran(*more: str, url: str = old_server.url) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).parent.parent.parent
        whole = [*command[:-1], url, *more]
        return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=60, check=False, cwd=root)

    plan = ran("--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "8 jobs can be moved, 4 stay; queues there: default" in plan.stdout
    assert "1 stay of shop.gone: the app has no task 'shop.gone': define it, or give --map shop.gone=..." in plan.stdout
    assert "8 jobs were moved, 4 stay" in ran().stdout
    again = json.loads(ran("--json").stdout)
    assert (again["moved"], again["left"]) == (0, 4)
    for wrong, words in (
        (["--map", "x"], "old.name=new.name"), (["--dry-run", "--follow"], "both given"), (["--map", "a=b"], "no task 'b'"),
    ):  # fmt: skip
        done = ran(*wrong)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    away = ran(url="redis://127.0.0.1:1")
    assert away.returncode == 3 and "127.0.0.1:1" in away.stderr and "Traceback" not in away.stderr


CELERY_CODE = """
from celery import shared_task, chain, chord
from celery.signals import task_failure
from celery.schedules import crontab
from shop.celery import app

@shared_task(bind=True, max_retries=3, rate_limit="10/s", autoretry_for=(OSError,), odd=1)
def pay(self, order):
    raise self.retry(countdown=self.request.retries * 5)

app.conf.beat_schedule = {"n": {"task": "x", "schedule": crontab(hour=3, minute=0)}}
app.conf.task_routes = {"a.*": "b"}

def view():
    pay.delay(1)
    pay.apply_async((1,), countdown=5, link=pay.s(), priority=3)
    chain(pay.s(1), pay.s())()
    chain(pay.s(1), chord([pay.s(2)], pay.s()))()
    app.control.revoke("x")
"""


def test_code_that_uses_celery_is_read(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text(CELERY_CODE)
    (tmp_path / "shop" / "other.py").write_text(
        "import x\nclass Job:\n    def delay(self): ...\nJob().delay()\nx.retry(exc=1)\n"
    )
    (tmp_path / "shop" / "views.py").write_text("from shop.tasks import pay\npay.apply_async((1,), link=1)\npay.s(1)\n")
    (tmp_path / "shop" / "settings.py").write_text("CELERY_TASK_TIME_LIMIT = 5\nCELERY_RESULT_EXPIRES = 5\n")
    (tmp_path / "shop" / "more.py").write_text(
        "from celery.exceptions import SoftTimeLimitExceeded\n@app.task\ndef t():\n    t.retry(countdown=5)\n"
    )
    (tmp_path / "shop" / "broken.py").write_text("def (")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "tasks.py").write_text(CELERY_CODE)
    found = scan(tmp_path)
    assert [Path(one.path).name for one in found if one.what == "not Python"] == ["broken.py"]
    said = {one.what: one for one in found if Path(one.path).name == "tasks.py"}
    of_others = [(Path(one.path).name, one.what, one.carries_over) for one in found if Path(one.path).name[0] in "mosv"]
    assert of_others == [
        ("more.py", "SoftTimeLimitExceeded", False), ("more.py", "@app.task", True), ("more.py", "t.retry(...)", False),
        ("settings.py", "CELERY_TASK_TIME_LIMIT", False), ("settings.py", "CELERY_RESULT_EXPIRES", True),
        ("views.py", ".apply_async(...)", True), ("views.py", "apply_async(link=)", False),
    ]  # fmt: skip
    lost = {what for what, one in said.items() if not one.carries_over}
    assert {
        "rate_limit=",
        "odd=",
        "apply_async(link=)",
        "apply_async(priority=)",
        "conf.task_routes",
        ".control",
    } <= lost
    assert {"bind=", "max_retries=", ".delay(...)", "self.retry(...)", "conf.beat_schedule"} <= set(said) - lost
    assert said["crontab(...)"].say.startswith('@app.cron("0 3 * * *")')
    assert [one.carries_over for one in found if one.what == "chain(...)"] == [True, False]
    assert said["@shared_task"].line == 7
    with pytest.raises(UsageError, match="no such file"):
        scan(tmp_path / "none")


async def test_what_producers_write_meanwhile_hides_no_older_job(
    shop: TrackedQueue, old_server: RedisServer, old: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(n: int) -> str:
        body = base64.b64encode(json.dumps([[n], {}, {}]).encode()).decode()
        return json.dumps({
            "body": body, "content-type": "application/json", "headers": {"id": f"i{n}", "task": "shop.add"},
            "properties": {"body_encoding": "base64"},
        })  # fmt: skip

    monkeypatch.setattr(celery_module, "PAGE", 2)
    old.lpush("celery", *[message(n) for n in range(7)])
    source = source_of("celery", old_server.url)
    lrange = source._client.lrange  # type: ignore[attr-defined]
    later = iter(range(100, 200))

    async def busy(key: str, start: int, end: int) -> list[bytes]:
        found: list[bytes] = await lrange(key, start, end)
        old.lpush("celery", message(next(later)))
        return found

    source._client.lrange = busy  # type: ignore[attr-defined]
    found = [item.id async for item in source.found(["celery"])]
    await source.close()
    assert found[:7] == [f"i{n}" for n in range(7)]
