"""`app.operator`: what the command line can do, from Python."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.harness import running_worker, wait_until
from tracked_queue import CancelWord, DeadFilter, DeadWord, Fate, State, TrackedQueue, UsageError
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.transitions import End, fetch, register, release


async def some_dead(app: TrackedQueue, count: int, task: str = "fails", queue: str = "default") -> list[str]:
    @app.task(name=task, queue=queue, max_attempts=1)
    async def fails(n: int) -> None:
        raise ValueError(f"no {n}")

    jobs = await app.enqueue_many([fails.call(n) for n in range(count)])
    async with running_worker(app):
        await wait_until(lambda: are_dead(app, len(jobs)), what="them to be dead")
    return [job.id for job in jobs]


async def are_dead(app: TrackedQueue, count: int) -> bool:
    return (await app.operator.queues()).dead >= count


async def test_dead_jobs_by_filter_and_limit(app: TrackedQueue) -> None:
    ids = await some_dead(app, 5)
    found = await app.operator.dead()
    assert {one.id for one in found} == set(ids)
    assert [one.age_s for one in found] == sorted((one.age_s for one in found), reverse=True)
    assert len(await app.operator.dead(limit=2)) == 2
    assert [one.error for one in await app.operator.dead(DeadFilter(reason="NO 3"))] == ["ValueError: no 3"]
    assert not await app.operator.dead(DeadFilter(task="other"))
    assert not await app.operator.dead(DeadFilter(older_than=3600.0))


async def test_requeue_looks_before_it_acts(app: TrackedQueue) -> None:
    ids = await some_dead(app, 3)
    there = await app.enqueue("elsewhere")
    asked = [*ids, there.id, "nobody"]
    refused = {there.id: DeadWord.NOT_DEAD, "nobody": DeadWord.GONE}
    would = await app.operator.requeue(asked, dry_run=True)
    assert (would.done, would.refused) == (3, refused) and len(await app.operator.dead()) == 3
    done = await app.operator.requeue(asked)
    assert (done.done, done.refused) == (3, refused) and not await app.operator.dead()
    assert {await app.job(id).status() for id in ids} == {State.QUEUED}


async def test_purge_of_what_matches(app: TrackedQueue) -> None:
    await some_dead(app, 3)
    assert (await app.operator.purge(matching=DeadFilter(reason="no 1"))).done == 1
    assert (await app.operator.purge(everything=True)).done == 2
    assert not await app.operator.dead()


async def test_a_pace_holds(app: TrackedQueue) -> None:
    """The first portion at once, each further one when its time has come."""
    ids = await some_dead(app, 30)
    began = time.monotonic()
    assert (await app.operator.requeue(ids, rate=20)).done == 30
    assert time.monotonic() - began >= 0.5, "thirty at twenty a second"


@pytest.mark.parametrize(
    "given",
    [
        {}, {"ids": ["a"], "everything": True}, {"matching": DeadFilter()}, {"ids": ["a"], "matching": DeadFilter(task="t")},
        {"ids": ["a"], "rate": 0}, {"ids": ["a"], "rate": True}, {"ids": ["a"], "rate": float("nan")}, {"ids": ["a"], "rate": "fast"}, {"ids": "a"}, {"ids": [5]},
        {"matching": "mail"}, {"everything": "yes"}, {"ids": ["a"], "dry_run": 1},
    ],
)  # fmt: skip
async def test_wrong_input_of_requeue_and_purge(app: TrackedQueue, given: dict[str, Any]) -> None:
    for act in (app.operator.requeue, app.operator.purge):
        with pytest.raises(UsageError):
            await act(**given)


async def test_wrong_input_of_the_others(app: TrackedQueue) -> None:
    operator: Any = app.operator
    for call in (
        operator.dead("mail"), operator.dead(limit=0), operator.dead(limit="5"), operator.active("a-lease"), operator.cancel("a"), operator.cancel([5]), operator.quiet(""),
        operator.quiet("a", undo=1), operator.pause(), operator.pause(queue="a", task="b"), operator.resume(), operator.knows(),
        operator.knows(queue="a", task="b"), operator.queue_age(5), operator.trigger("nothing"), operator.cancel_many(),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            await call


async def test_cancel_tells_each_in_the_order_given(app: TrackedQueue) -> None:
    one, two = await app.enqueue("x"), await app.enqueue("x")
    await two.cancel()
    found = await app.operator.cancel(["nobody", two.id, one.id])
    assert list(found.items()) == [
        ("nobody", CancelWord.GONE),
        (two.id, CancelWord.ENDED),
        (one.id, CancelWord.CANCELLED),
    ]


async def test_the_fleet_is_seen_and_quieted(app: TrackedQueue) -> None:
    @app.task(name="t", queue="work")
    async def t() -> None: ...

    assert not await app.operator.instances() and not await app.operator.quiet("pod")
    async with running_worker(app):
        (instance,) = await wait_until(app.operator.instances, what="the instance")
        assert instance.alive and instance.shard == 0 and instance.queues == ("work",)
        assert await app.operator.knows(queue="work") and await app.operator.knows(task="t")
        assert not await app.operator.knows(queue="wrok")
        assert not await app.operator.unheld({7: {0: instance.lease}})
        assert await app.operator.quiet(instance.lease) == [instance.lease]
        await wait_until(lambda: is_quiet(app), what="it to be quiet")
        assert await app.operator.quiet(instance.label, undo=True) == [instance.lease]
        assert not await app.operator.active(instance)
    assert (await app.operator.unheld({7: {0: instance.lease}}))[
        0
    ] == f"process 7: its lease {instance.lease} is not held"


async def is_quiet(app: TrackedQueue) -> bool:
    return all(item.quiet for item in await app.operator.instances())


async def test_recover_moves_what_a_lost_instance_left(app: TrackedQueue) -> None:
    job = await app.enqueue("x")
    store = connections_of(app).store
    await store.run(register("lost", 2.0, 0.2, {"label": "lost"}))
    await store.run(fetch("lost", 1, 1, 0, ["default"]))
    await store.run(release("lost", End.DIED, ago=0.0))
    (moved,) = await app.operator.recover()
    assert moved.id == job.id and moved.fate is Fate.REQUEUED and await app.operator.queue_age("default") is not None


@pytest.mark.parametrize("shards", [1, 3])
async def test_all_shards_are_looked_at(server: RedisServer, namespace: str, shards: int) -> None:
    async with TrackedQueue(server.url, namespace=namespace, shards=shards) as app:
        jobs = [await app.enqueue("x", n) for n in range(12)]
        (queue,) = (await app.operator.queues()).queues
        assert queue.length == 12
        found = await app.operator.cancel([job.id for job in jobs])
        assert set(found.values()) == {CancelWord.CANCELLED} and list(found) == [job.id for job in jobs]
        assert [finding.found for finding in await app.operator.examine() if "append-only" in finding.name]


def test_a_picture_is_shared_by_all_who_look_in_whatever_loop(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)

    async def look() -> int:
        async with app:
            found = await asyncio.gather(*(app.operator.picture() for _ in range(5)))
            return len({id(one) for one in found})

    for _ in range(2):
        app.operator._pictures._until = 0.0  # as after a second: all of them wait for one reading
        assert asyncio.run(look()) == 1


async def test_what_was_done_is_noted_even_if_it_is_ended_midway(app: TrackedQueue) -> None:
    """Ctrl-C at `dead requeue --rate`: the audit has what was done until then."""
    await some_dead(app, 100)
    task = asyncio.create_task(app.operator.requeue(everything=True, rate=10))

    async def begun() -> bool:
        return (await app.operator.queues()).dead < 100

    await wait_until(begun)
    task.cancel()
    await asyncio.wait([task])
    (noted,) = await app.operator.acts(1)
    assert noted.action == "requeue"
    assert noted.facts["jobs"] == 100 - (await app.operator.queues()).dead > 0
    assert (await app.operator.requeue(["nothing"], dry_run=True)).refused == {"nothing": DeadWord.GONE}
    left = (await app.operator.queues()).dead
    assert (await app.operator.requeue(everything=True, dry_run=True)).done == left
    assert (await app.operator.purge(everything=True)).done == left
