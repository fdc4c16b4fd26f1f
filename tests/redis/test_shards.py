"""Several shards on one server: where jobs go, what is refused, shared slots, and agreeing on their number."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.harness import running_worker, wait_until
from tests.sharded import app_at, by_shard, task_of
from tracked_queue import (
    Concurrency,
    NamespaceMismatchError,
    Rate,
    SettingsError,
    StoreRefusedError,
    TrackedQueue,
    Unique,
    UsageError,
    current_job,
)
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.states import State
from tracked_queue.protocol.version import NEWEST, OLDEST, WRITES
from tracked_queue.reports.queues import read_overview
from tracked_queue.sharding.agreement import Agreement
from tracked_queue.sharding.placement import deciding
from tracked_queue.sharding.shards import Shards
from tracked_queue.transport.cluster import parse_cluster_url
from tracked_queue.transport.link import Link
from tracked_queue.transport.store import Store
from tracked_queue.worker.fetcher import Fetcher
from tracked_queue.worker.slots import Slots

# The URL of a cluster


def test_cluster_urls() -> None:
    hosts, server = parse_cluster_url("rediss+cluster://user:p%40ss@one,two:5,[::1]:7/0?ssl_check_hostname=no")
    assert hosts == [("one", 6379), ("two", 5), ("::1", 7)]
    assert server == "rediss://user:p%40ss@primary.invalid/?ssl_check_hostname=no"
    for wrong, why in (
        ("redis+cluster://a/1", "a cluster has only 0"),
        ("redis+cluster://a:x", "is not a host or host:port of a cluster's server"),
        ("redis+cluster://", "is not a host"),
    ):
        with pytest.raises(SettingsError, match=why):
            parse_cluster_url(wrong)


# Where a job is


def test_an_id_tells_its_shard() -> None:
    shards = Shards("n", 4)
    assert [shards.keys(shard).tag for shard in range(2)] == ["{n:0/4}", "{n:1/4}"]
    assert Shards("n", 1).keys(0).tag == "{n}" and Shards("n", 1).of_id("whatever~3") == 0
    ids = [shards.new_id() for _ in range(400)]
    assert all(id.endswith(f"~{shards.of_id(id)}") for id in ids)
    spread = Counter(map(shards.of_id, ids))
    assert len(spread) == 4 and min(spread.values()) > 40
    assert shards.of_id(shards.new_id(2)) == 2
    own = [shards.of_id(f"mine-{n}") for n in range(100)]
    assert len(set(own)) == 4 and own == [Shards("n", 4).of_id(f"mine-{n}") for n in range(100)]
    # A number that is no shard is part of the text; any text has a place.
    assert 0 <= shards.of_id("x~9") < 4 and 0 <= shards.of_id("~99999999999") < 4 and shards.of_id("x~3") == 3
    assert shards.moved("abc~1", 3) == "abc~3" and Shards("n", 1).moved("abc", 0) == "abc"


BY = {
    "nothing": (None, (), ()),
    "a limit": (None, (Concurrency(3),), ()),
    "unique over all arguments": (Unique(), (), ()),
    "a limit without a key and one with": (None, (Concurrency(9), Concurrency(2, key="a")), ()),
    "a unique key that has the limit's in it": (Unique(by=["a", "b"]), (Concurrency(2, key="a"),), ()),
    "all arguments and a key": (Unique(), (Rate(5, per=1, key="a"),), ()),
    "a shared limit and a finer one": (None, (Concurrency(3, name="shared"), Concurrency(1, key="a")), ()),
    "a queue's limit": (None, (), (Concurrency(5),)),
}


@pytest.mark.parametrize("name", BY)
def test_what_decides_the_shard(name: str) -> None:
    unique, limits, of_queue = BY[name]
    found = deciding("t", "q", unique, limits, of_queue)
    expected = {
        "nothing": None, "a limit": limits[:1], "unique over all arguments": unique,
        "a limit without a key and one with": limits[:1], "a unique key that has the limit's in it": limits[:1],
        "all arguments and a key": limits[:1], "a shared limit and a finer one": limits[:1], "a queue's limit": of_queue[:1],
    }[name]  # fmt: skip
    assert found == (expected[0] if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    ("unique", "limits", "of_queue"),
    [
        (Unique(by="b"), (Concurrency(2, key="a"),), ()),
        (None, (Concurrency(2, key="a"), Rate(3, per=1, key="b")), ()),
        (None, (Concurrency(2, name="x"), Concurrency(2, name="y")), ()),
        (None, (Concurrency(2),), (Concurrency(5),)),
        (Unique(), (), (Concurrency(5),)),
        (None, (Concurrency(2), Concurrency(3, key="a", name="shared")), ()),
    ],
)
def test_what_would_need_two_shards_is_refused(unique: Any, limits: Any, of_queue: Any) -> None:
    with pytest.raises(UsageError, match="with several shards"):
        deciding("t", "q", unique, limits, of_queue)


async def test_jobs_that_share_a_key_share_a_shard(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 5) as app:

        @app.task(name="by_tenant", limit=Concurrency(1, key="tenant"), unique=Unique(by=["tenant", "n"]))
        async def by_tenant(tenant: str, n: int) -> None: ...

        homes = {}
        for tenant in map(str, range(20)):
            jobs = [await by_tenant.enqueue(tenant, n) for n in range(3)]
            (homes[tenant],) = by_shard(app, jobs)
            again = await by_tenant.enqueue(tenant, 1)
            assert (again.id, again.created) == (jobs[1].id, False), "the key is found where it is held"
        assert len(set(homes.values())) > 1
        with pytest.raises(UsageError, match=rf"leave id= out, or end it with ~ and the shard, here mine~{homes['3']}"):
            await by_tenant.options(id="mine").enqueue("3", 9)
        own = await by_tenant.options(id=f"mine~{homes['3']}").enqueue("3", 9)
        assert (await own.info()).state is State.QUEUED
        away = next(shard for shard in range(5) if shard != homes["3"])
        with pytest.raises(UsageError, match="after= needs shard"):
            await by_tenant.options(after=[f"there~{away}"]).enqueue("3", 10)


async def test_members_of_a_workflow_share_a_shard(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 5) as app:

        @app.task(name="limited", limit=Concurrency(1))
        async def limited(values: list[int]) -> int:
            return sum(values)

        double, total = task_of(app, "double"), task_of(app, "total")
        for _ in range(5):
            group = await app.group([double.call(n) for n in range(6)], then=total.step())
            assert len(by_shard(app, [*group.jobs, group.then])) == 1  # type: ignore[list-item]
        home = connections_of(app).shards.of_id((await limited.enqueue([1])).id)
        held = await app.group([double.call(n) for n in range(6)], then=limited.step())
        assert set(by_shard(app, [*held.jobs, held.then])) == {home}, "the limit decides for all"  # type: ignore[list-item]
        chain = await app.chain(double.call(4), double.step(), double.step())
        with pytest.raises(UsageError, match="must share a shard"):
            await app.group([double.options(id="a~1").call(1), double.options(id="b~2").call(1)])
        with pytest.raises(UsageError, match="must share a shard"):
            await double.options(after=["a~1", "b~2"]).enqueue(1)
        async with running_worker(app):
            assert await chain.result(10) == 32
            assert await held.then.result(10) == 30  # type: ignore[union-attr]
            assert (await held.progress()).done == 6


async def test_what_fails_in_one_shard_names_only_its_jobs(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 3) as app:
        double = task_of(app, "double")
        await app.enqueue_many([double.call(n) for n in range(3)])
        await (
            connections_of(app).stores[1].read(("SADD", connections_of(app).shards.keys(1).single("paused"), "closed"))
        )
        with pytest.raises(StoreRefusedError, match="another number of shards"):
            await app.enqueue_many([double.options(id=f"x{n}~{n}").call(n) for n in range(3)])
        assert await producer_of(app).job_states(["x0~0", "x1~1", "x2~2"]) == [State.QUEUED, None, State.QUEUED]


# Workers


async def test_shards_take_turns_and_keep_their_priorities(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 3, concurrency=3) as app:
        order: list[tuple[int, str]] = []

        async def note(name: str) -> None:
            order.append((connections_of(app).shards.of_id(name), name.split("-")[0]))
            await asyncio.sleep(0.005)

        @app.task(name="high", queue="high")
        async def high(name: str) -> None:
            await note(name)

        @app.task(name="low", queue="low")
        async def low(name: str) -> None:
            await note(name)

        for kind, task in (("low", low), ("high", high)):
            names = [f"{kind}-{n}~{shard}" for shard in range(3) for n in range(30 if shard else 90)]
            await app.enqueue_many([task.options(id=name).call(name) for name in names])
        assert await app.run_worker(queues=["high", "low"], burst=True, handle_signals=False) == 0
        for shard in range(3):
            kinds = [kind for of, kind in order if of == shard]
            assert kinds == sorted(kinds), f"shard {shard}: the higher queue first"
        # The small shards are served while the large one still has jobs, as fast as it.
        first = Counter(shard for shard, _ in order[:90])
        assert len(first) == 3 and min(first.values()) >= 24, f"not in turns: {first}"
        assert len(order) == 300


async def test_one_place_goes_round(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 4, concurrency=1) as app:
        order: list[int] = []

        @app.task(name="work")
        async def work() -> None:
            order.append(connections_of(app).shards.of_id(current_job().id))
            await asyncio.sleep(0.002)

        await app.enqueue_many([work.options(id=f"w{n}~{n % 4}").call() for n in range(200)])
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        first = Counter(order[:80])
        assert len(first) == 4 and min(first.values()) >= 10, first


async def test_all_shards_share_the_slots_and_the_caps(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 4, concurrency=6) as app:
        now = most = capped = most_capped = 0

        @app.task(name="work")
        async def work() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

        @app.task(name="few", queue="few")
        async def few() -> None:
            nonlocal capped, most_capped
            capped += 1
            most_capped = max(most_capped, capped)
            await work()
            capped -= 1

        await app.enqueue_many([task.call() for _ in range(60) for task in (work, few)])
        assert await app.run_worker(queue_concurrency={"few": 2}, burst=True, handle_signals=False) == 0
        assert (most, most_capped) == (6, 2)
        overview = await read_overview(connections_of(app).stores)
        assert sum(queue.length for queue in overview.queues) == 0


async def test_a_limit_holds_over_all_shards(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 4) as app:
        now = most = 0

        @app.task(name="one", limit=Concurrency(1))
        async def one() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

        await app.enqueue_many([one.call() for _ in range(20)])
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        assert most == 1


async def test_jobs_that_came_by_name_are_held_to_a_limit_in_their_own_shard(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their producer can't know where the limit is kept; the worker says so, once a task."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("tracked_queue.log.limits_split", lambda **facts: told.append(facts))
    async with app_at(server.url, namespace, 3) as app, app_at(server.url, namespace, 3) as producer:
        now = Counter[int]()
        most = Counter[int]()

        @app.task(name="one", limit=Concurrency(1))
        async def one() -> None:
            shard = connections_of(app).shards.of_id(current_job().id)
            now[shard] += 1
            most[shard] = max(most[shard], now[shard])
            await asyncio.sleep(0.01)
            now[shard] -= 1

        for n in range(15):
            await producer.options(id=f"n{n}~{n % 3}").enqueue("one")
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        assert most == {0: 1, 1: 1, 2: 1} and len(told) == 1 and told[0]["task"] == "one"


async def test_suspects_of_one_shard_run_beside_nothing_of_another(server: RedisServer, namespace: str) -> None:
    """What is blamed when the process dies must be what may have done it; and fresh jobs and suspects all come to their end."""
    async with app_at(server.url, namespace, 3) as app:
        now: Counter[int] = Counter()
        beside: list[tuple[int, ...]] = []

        @app.task(name="one")
        async def one(shard: int, suspect: bool) -> None:
            now[shard] += 1
            if suspect:
                beside.append(tuple(other for other, count in now.items() if count and other != shard))
            await asyncio.sleep(0.02)
            if suspect:
                beside.append(tuple(other for other, count in now.items() if count and other != shard))
            now[shard] -= 1

        jobs = [
            await one.options(id=f"{kind}{n}~{shard}").enqueue(shard, kind == "s")
            for shard in range(3) for n in range(6) for kind in "sf"
        ]  # fmt: skip
        for job in jobs:
            if job.id[0] == "s":
                keys, store = (
                    connections_of(app).shards.keys(connections_of(app).shards.of_id(job.id)),
                    connections_of(app).store_of(job.id),
                )
                await store.read(
                    ("HSET", keys.named("job", job.id), "pool", 2, "past", 0, "deaths", 1, "delivery", 1),
                    ("LREM", keys.named("queue", "default"), 1, job.id),
                    ("ZADD", keys.named("suspected", "default"), 1, job.id),
                    ("SADD", keys.single("suspecting"), "default"),
                )
        async with running_worker(app):
            for job in jobs:
                await job.result(30)
        assert set(beside) == {()}


async def test_a_shard_that_fails_ends_the_others_in_order(server: RedisServer, namespace: str) -> None:
    """What ran there is handed back, and no thread keeps its lease."""
    async with app_at(server.url, namespace, 2, heartbeat_ttl=2.0, cancel_grace=0.3, grace=0.3) as app:
        slow = task_of(app, "slow")
        job = await slow.options(id="s~0").enqueue(60.0)
        await (
            connections_of(app).stores[1].read(("SADD", connections_of(app).shards.keys(1).single("paused"), "closed"))
        )
        with pytest.raises(StoreRefusedError, match="another number"):
            await app.run_worker(handle_signals=False)
        await (
            connections_of(app).stores[1].read(("SREM", connections_of(app).shards.keys(1).single("paused"), "closed"))
        )
        worker = asyncio.ensure_future(app.run_worker(handle_signals=False))

        async def active() -> bool:
            return await job.status() is State.ACTIVE

        await wait_until(active, what="it to run")
        (lease,) = (
            await connections_of(app).stores[0].read(("ZRANGE", connections_of(app).keys.single("instances"), 0, -1))
        )
        # The other shard refuses its next lease for good.
        keys, store = connections_of(app).shards.keys(1), connections_of(app).stores[1]
        await store.read(("SADD", keys.single("paused"), "closed"))
        (other,) = await store.read(("ZRANGE", keys.single("instances"), 0, -1))
        await store.read(("ZADD", keys.single("instances"), 0, other[0]))
        with pytest.raises(StoreRefusedError, match="another number"):
            await asyncio.wait_for(worker, 20)
        info = await job.info()
        assert (info.state, info.interruptions, info.recoveries) == (State.QUEUED, 1, 0), "handed back"
        assert await connections_of(app).stores[0].read(
            ("ZSCORE", connections_of(app).keys.single("instances"), lease[0])
        ) == [None]


async def test_a_full_cap_and_a_due_job_make_no_busy_loop(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    wait = Fetcher._wait

    async def counted(self: Fetcher, seconds: float | None, *, for_due: bool = True) -> None:
        nonlocal turns
        turns += 1
        await wait(self, seconds, for_due=for_due)

    monkeypatch.setattr(Fetcher, "_wait", counted)
    async with app_at(server.url, namespace, 1) as app:
        slow = task_of(app, "slow")
        await slow.enqueue(1.0)
        due = await slow.options(delay=0.2).enqueue(0.0)
        worker = asyncio.ensure_future(app.run_worker(queue_concurrency={"default": 1}, handle_signals=False))
        assert await due.result(10) == "slept"
        worker.cancel()
        await asyncio.wait([worker])
    assert turns < 200


async def test_a_schedule_ticks_once_in_the_shard_of_its_jobs(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 4) as app:
        ticks: list[str] = []

        @app.every(1, name="beat")
        @app.task(name="tick", limit=Concurrency(1))
        async def tick() -> None:
            ticks.append(current_job().id)

        async with running_worker(app), running_worker(app):
            await wait_until(lambda: len(ticks) >= 2, what="two ticks")
            (report,) = await app.read_schedules()
            assert report.name == "beat"
        assert len(set(ticks)) == len(ticks) and len({connections_of(app).shards.of_id(id) for id in ticks}) == 1
        home = connections_of(app).shards.of_id((await tick.enqueue()).id)
        assert {connections_of(app).shards.of_id(id) for id in ticks} == {home}


async def test_operators_reach_every_shard(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 3) as app:
        double = task_of(app, "double")
        lease = "gone"
        for shard, store in enumerate(connections_of(app).stores):
            await double.options(id=f"o{shard}~{shard}").enqueue(1)
            await store.run(t.register(lease, 30, 5, {}))
            await store.run(t.fetch(lease, 1, 5, 0, ["default"]))
            await store.run(t.release(lease, t.End.DIED))
        moved = await app.recover()
        assert sorted(one.id for one in moved) == [f"o{shard}~{shard}" for shard in range(3)]
        assert await app.cancel_many(queue="default") == 3
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        jobs = await app.enqueue_many([double.call(n) for n in range(30)])
        assert await app.pause(queue="default") and not await app.pause(queue="default")
        overview = await read_overview(connections_of(app).stores)
        assert [(q.queue, q.length, q.paused) for q in overview.queues] == [("default", 30, True)]
        assert await app.resume(queue="default")
        assert await app.cancel_many(queue="default") == 30
        assert set(await producer_of(app).job_states([job.id for job in jobs])) == {State.CANCELLED}


# Agreeing on their number


async def test_another_number_is_refused_while_there_are_jobs(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 1) as one:
        job = await task_of(one, "double").enqueue(1)
        async with app_at(server.url, namespace, 4) as four:
            with pytest.raises(
                StoreRefusedError,
                match=r"has 1 shard and this program is set to 4; .* queue default holds jobs. Set shards to 1",
            ):
                await task_of(four, "double").enqueue(2)
            with pytest.raises(StoreRefusedError, match="has 1 shard"):
                await asyncio.to_thread(task_of(four, "double").enqueue_sync, 2)
            with pytest.raises(StoreRefusedError, match="has 1 shard"):
                await four.run_worker(burst=True, handle_signals=False)
            # Nothing of the try is left: the former number goes on.
            assert await one.run_worker(burst=True, handle_signals=False) == 0
            assert await job.result(5) == 2
            # Now it is empty, and the same programs agree on four.
            moved = await task_of(four, "double").enqueue(3)
            assert "~" in moved.id
            with pytest.raises(StoreRefusedError, match="another number of shards"):
                await task_of(one, "double").enqueue(4)
            with pytest.raises(StoreRefusedError, match="has 4 shards and this program is set to 1"):
                await one.run_worker(burst=True, handle_signals=False)
            with pytest.raises(StoreRefusedError, match="has 4 shards and this program is set to 1"):
                async with app_at(server.url, namespace, 1) as again:
                    await task_of(again, "double").enqueue(4)
            assert await four.run_worker(burst=True, handle_signals=False) == 0
            assert await moved.result(5) == 6
        async with app_at(server.url, namespace, 1) as again:  # and back
            assert await task_of(again, "double").enqueue(4)
            assert await again.run_worker(burst=True, handle_signals=False) == 0


async def test_a_change_that_was_cut_short_is_taken_up_or_back(server: RedisServer, namespace: str) -> None:
    async def cut_short(app: TrackedQueue, how_far: int) -> None:
        base = Shards(namespace, 1)
        steps = [t.layout("2", "2>3"), t.close("close"), t.close("close")]
        async with app_at(server.url, namespace, 2) as old:
            await task_of(old, "double").enqueue(1)
            assert await old.run_worker(burst=True, handle_signals=False) == 0
            for at, call in enumerate(steps[:how_far]):
                keys = base.base_keys if at == 0 else Shards(namespace, 2).keys(at - 1)
                link = Link(connections_of(old).endpoint())
                await Store(link, keys).run(call)
                await link.close()

    for how_far in (1, 2, 3):
        async with app_at(server.url, namespace, 2) as app:
            await cut_short(app, how_far)
        async with app_at(server.url, namespace, 5) as other:
            with pytest.raises(StoreRefusedError, match="being changed from 2 shards to 3"):
                await task_of(other, "double").enqueue(1)
        async with app_at(server.url, namespace, 2) as back:  # the former number: taken back
            await back.enqueue_many([task_of(back, "double").options(id=f"b{n}~{n}").call(1) for n in range(2)])
            assert await back.run_worker(burst=True, handle_signals=False) == 0
        async with app_at(server.url, namespace, 2) as app:
            await cut_short(app, how_far)
        async with app_at(server.url, namespace, 3) as on:  # the new one: gone on with
            await on.enqueue_many([task_of(on, "double").options(id=f"c{n}~{n}").call(1) for n in range(3)])
            assert await on.run_worker(burst=True, handle_signals=False) == 0
        async with app_at(server.url, namespace, 2) as app:
            await task_of(app, "double").enqueue(1)
            assert await app.run_worker(burst=True, handle_signals=False) == 0


async def test_tools_find_the_number_by_themselves(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 3) as app:
        job = await task_of(app, "double").enqueue(1)
        tool = TrackedQueue(server.url, namespace=namespace)
        await connections_of(tool).find_shards()
        async with tool:
            assert connections_of(tool).shards.count == 3 and (await tool.job(job.id).info()).state is State.QUEUED
            assert (await tool.enqueue("double", 4)).id.endswith(("~0", "~1", "~2"))
        wrong = TrackedQueue(server.url, namespace=namespace, shards=2)
        with pytest.raises(UsageError, match="has 3 shards, and shards is set to 2 here"):
            await connections_of(wrong).find_shards()


async def test_a_program_that_was_told_no_number_never_changes_it(server: RedisServer, namespace: str) -> None:
    """Else a stray script would turn an idle namespace of three shards into one, and lock out everybody else."""
    async with app_at(server.url, namespace, 3) as app:
        await task_of(app, "double").enqueue(1)
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        async with TrackedQueue(server.url, namespace=namespace) as stray:

            @stray.task(name="double")
            async def double(n: int) -> None: ...

            for use in (
                double.enqueue(1), stray.pause(queue="default"), stray.run_worker(burst=True, handle_signals=False),
                asyncio.to_thread(double.enqueue_sync, 1),
            ):  # fmt: skip
                with pytest.raises(StoreRefusedError, match="has 3 shards, but shards is not set here: set shards=3"):
                    await use
        assert (await task_of(app, "double").enqueue(2)).created


async def test_what_is_paused_is_paused_in_all_shards_or_not_at_all(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, 3) as app:
        await task_of(app, "double").enqueue(1)
        async with app_at(server.url, namespace, 5) as other:
            for use in (
                other.pause(queue="default"),
                other.cancel_many(queue="default"),
                other.recover(),
            ):
                with pytest.raises(StoreRefusedError, match="has 3 shards and this program is set to 5"):
                    await use
        overview = await read_overview(connections_of(app).stores)
        assert [(queue.length, queue.paused) for queue in overview.queues] == [(1, False)]


def test_a_shard_at_its_share_leaves_places_to_one_that_is_short() -> None:
    slots = Slots(4, several=True)
    rich, poor = (slots.join(lambda: None, lambda queue: 0) for _ in range(2))
    rich.waiting = 3  # it has jobs at hand, and the other one only asks
    for _ in range(2):
        assert rich.open()
        rich.start()
    assert not rich.open() and rich.free() <= 0 and poor.free() == 2
    poor.hungry = False
    assert rich.open(), "nobody else wants them"


def test_a_refused_change_of_the_number_has_written_nothing() -> None:
    steps = Agreement(Shards("n", 4), True)._steps()
    asked = [next(steps)[1]]
    with pytest.raises(NamespaceMismatchError):
        for value in (t.Agreed(t.ProtocolWord.OK, 1), "2", "", "queue q", "2"):  # the second of two shards is not empty
            asked.append(steps.send(value)[1])
    assert [(call.script, call.args) for call in asked] == [
        ("protocol", [OLDEST, NEWEST, WRITES, "look"]), ("layout", ["", "4"]), ("close", ["look"]), ("close", ["look"]), ("layout", ["", "4"]),
    ]  # fmt: skip
