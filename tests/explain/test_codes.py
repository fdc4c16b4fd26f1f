"""Every code of `explain`, from a state that a real server holds. Source: docs/reference/explain.md."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tracked_queue.operator
from tests.harness import Scripts, running_worker, wait_until
from tracked_queue import Concurrency, TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.operator.explanation import Explanation
from tracked_queue.operator.job_causes import absent
from tracked_queue.operator.standing import limit_cause
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.protocol.scripts import load_scripts
from tracked_queue.protocol.transitions import LateOutcome, OutcomeKind
from tracked_queue.reports.scene import Absence, LimitScene

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).parent.parent.parent / "docs" / "reference" / "explain.md"


@pytest.fixture
def live(server: RedisServer, namespace: str) -> Iterator[Scripts]:
    """The scripts with the server's own clock, by which `explain` goes as well."""
    scripts = Scripts(server.url, namespace, load_scripts("now_ms"))
    yield scripts
    scripts.redis.delete(
        "nothing", *scripts.redis.scan_iter(match=scripts.keys.tag.replace("{", "[{]") + ":*", count=1000)
    )
    scripts.close()


def ms(seconds_ago: float = 0.0) -> int:
    return round((time.time() - seconds_ago) * 1000)


def worker(live: Scripts, lease: str = "w", queues: str = "q", slots: int = 5, tasks: str = "t", **about: str) -> None:
    facts = {
        "label": f"pod-{lease}",
        "queues": queues,
        "tasks": tasks,
        "concurrency": str(slots),
        "version": "5.0",
        **about,
    }
    assert live.store.run(t.register(lease, 30, 5, facts))


def run_out(live: Scripts, lease: str = "w", seconds_ago: float = 5.0) -> None:
    live.redis.zadd(live.keys.single("instances"), {lease: ms(seconds_ago)})


def change(live: Scripts, id: str, **fields: Any) -> None:
    live.redis.hset(live.keys.record_of(id), mapping=fields)


def long_ago(live: Scripts, id: str, seconds_ago: float = 60.0) -> None:
    """It has waited for this long."""
    change(live, id, queued_ms=ms(seconds_ago))


def limits(kind: str, name: str = "one", most: int = 1, span_ms: int = 0) -> bytes:
    return encode_extras({"lane": f"q\n{name}", "limits": [[name, kind, most, span_ms, len(name)]]})


def die(live: Scripts, id: str, reason: str) -> None:
    live.enqueue(id)
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "dead", ms=1, reason=reason)


States: dict[str, tuple[Callable[[Scripts], Any], dict[str, str]]] = {}
JOB = {"job_id": "a"}


def state(code: str, **asked: str) -> Callable[[Callable[[Scripts], Any]], Callable[[Scripts], Any]]:
    """Register what produces a code; it is asked about job `a` unless something else is named."""

    def keep(make: Callable[[Scripts], Any]) -> Callable[[Scripts], Any]:
        assert code not in States, code
        States[code] = (make, {name: value for name, value in asked.items() if name != "none"} if asked else JOB)
        return make

    return keep


# Jobs


@state("absent.unknown")
def _(live: Scripts) -> None: ...


@state("absent.ended")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "succeeded", ms=1)
    live.redis.delete(live.keys.record_of("a"))


@state("absent.purged")
def _(live: Scripts) -> None:
    live.store.run(t.act("ann", "purge", '{"ids": ["b", "a"]}'))


@state("absent.unreadable")
def _(live: Scripts) -> None:
    live.redis.set(live.keys.record_of("a"), "x")


@state("scheduled.delay")
def _(live: Scripts) -> None:
    live.enqueue("a", delay_ms=60_000)


@state("scheduled.retry")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "retry", ms=60_000, reason="ValueError: no")


@state("scheduled.snoozed")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "snoozed", ms=60_000)


@state("scheduled.overdue")
def _(live: Scripts) -> None:
    live.enqueue("a", delay_ms=60_000)
    change(live, "a", due_ms=ms(10))
    live.redis.zadd(live.keys.single("scheduled"), {"a": ms(10)})


@state("scheduled.unlisted")
def _(live: Scripts) -> None:
    live.enqueue("a", delay_ms=60_000)
    live.redis.zrem(live.keys.single("scheduled"), "a")


def follow(live: Scripts, **fields: Any) -> None:
    live.enqueue("before")
    live.enqueue("a", extras=encode_extras({"after": ["before"], "on_failure": "ignore", "wants": 0, **fields}))


@state("waiting.on")
def _(live: Scripts) -> None:
    follow(live)


@state("waiting.stuck")
def _(live: Scripts) -> None:
    follow(live)
    change(live, "before", state="parked")


@state("waiting.untold")
def _(live: Scripts) -> None:
    follow(live)
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "succeeded", ms=60_000)


@state("waiting.gathering")
def _(live: Scripts) -> None:
    follow(live, more_after=1)


@state("queued.just_now")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("a")


@state("queued.unserved")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live, queues="other")


@state("queued.paused")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.store.run(t.pause("queue:q"))
    live.store.run(t.act("ann", "pause", '{"what": "queue:q"}'))


@state("queued.quiet")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.store.run(t.quiet("w", True))


@state("queued.late_leases")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    run_out(live)


@state("queued.full")
def _(live: Scripts) -> None:
    live.enqueue("first", "a")
    worker(live, slots=1)
    live.take("w", start=1)


@state("queued.queue_cap")
def _(live: Scripts) -> None:
    live.enqueue("first", "a")
    worker(live, most="q=1\nother=7")
    live.take("w", start=1)


@state("queued.starved")
def _(live: Scripts) -> None:
    live.enqueue("x", queue="urgent")
    live.enqueue("a")
    worker(live, queues="urgent\nq")


@state("queued.behind")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("first", "a")
    long_ago(live, "a")


@state("queued.marker_missing")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("a")
    long_ago(live, "a")
    live.redis.delete(live.keys.wake_of("q"))


@state("queued.closed_shard")
def _(live: Scripts) -> None:
    live.enqueue("a")
    live.redis.sadd(live.keys.single("paused"), "closed")


@state("queued.unlisted")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("a")
    live.redis.delete(live.keys.named("queue", "q"))


@state("queued.suspect")
def _(live: Scripts) -> None:
    live.enqueue("a", "b")
    worker(live)
    worker(live, "sweeper")
    live.take("w")
    live.release("w", t.End.DIED)
    assert live.recover("w").word == "ok" and "a" in live.suspects()


@state("lane.concurrency")
def _(live: Scripts) -> None:
    live.enqueue("first", "a", extras=limits("concurrency"))
    worker(live)
    assert len(live.take("w")) == 1


@state("lane.leaked_permit")
def _(live: Scripts) -> None:
    live.enqueue("first", "a", extras=limits("concurrency"))
    worker(live)
    assert len(live.take("w")) == 1
    live.redis.delete(live.keys.record_of("first"))


@state("lane.rate")
def _(live: Scripts) -> None:
    live.enqueue("first", "a", extras=limits("rate", span_ms=60_000))
    worker(live)
    assert len(live.take("w")) == 1


@state("lane.turn")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("first", extras=limits("concurrency", "one", most=9))
    live.enqueue("a", extras=limits("concurrency", "two", most=9))


@state("parked.unknown_task")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live, tasks="other")
    (job,) = live.take("w")
    live.settle("w", job, "parked")


@state("parked.task_paused")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.store.run(t.pause("task:t"))
    live.take("w")


@state("parked.moving")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    (job,) = live.take("w")
    live.settle("w", job, "parked")


@state("active.running")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w")


@state("active.buffered")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w", start=0, buffer=1)


@state("active.cancel_pending")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w")
    live.store.run(t.cancel(["a"], 60, "ann"))


@state("active.cancel_ignored")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w")
    live.store.run(t.cancel(["a"], 60, "ann"))
    old = live.redis.hget(live.keys.record_of("a"), "event:0")
    change(live, "a", **{"event:0": b"\x96\xcf" + ms(600).to_bytes(8, "big") + bytes(old)[10:]})


@state("active.unlisted")
def _(live: Scripts) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w")
    live.redis.delete(live.keys.processing_of("w"))


def lost(live: Scripts, seconds_ago: float = 5.0, *, others: bool = True) -> None:
    live.enqueue("a")
    worker(live)
    live.take("w")
    if others:
        worker(live, "other")
    run_out(live, seconds_ago=seconds_ago)


@state("lost.waiting")
def _(live: Scripts) -> None:
    lost(live)


@state("lost.nobody_to_sweep")
def _(live: Scripts) -> None:
    lost(live, others=False)


@state("lost.auto_recovery_off")
def _(live: Scripts) -> None:
    lost(live, 900)


@state("lost.hold")
def _(live: Scripts) -> None:
    lost(live)
    live.redis.set(live.keys.single("hold"), ms(-20))


@state("lost.sweep_busy")
def _(live: Scripts) -> None:
    lost(live)
    live.redis.set(live.keys.single("recovery_lock"), f"{ms()} w other")


@state("lost.no_lease")
def _(live: Scripts) -> None:
    lost(live)
    live.redis.zrem(live.keys.single("instances"), "w")


def end(outcome: str) -> Callable[[Scripts], None]:
    def make(live: Scripts) -> None:
        live.enqueue("a")
        worker(live)
        (job,) = live.take("w")
        live.settle("w", job, outcome, ms=60_000, reason="" if outcome == "succeeded" else "why")

    return make


for outcome in ("succeeded", "failed", "cancelled"):
    state(f"ended.{outcome}")(end(outcome))


@state("ended.expired")
def _(live: Scripts) -> None:
    live.enqueue("a", extras=encode_extras({"expires": 1}))
    worker(live)
    time.sleep(0.01)  # the server's clock has to pass its time
    assert live.take("w") == []


state("dead.attempts")(lambda live: die(live, "a", "attempts exhausted (3 of 3): ValueError: no"))
state("dead.charges")(lambda live: die(live, "a", "its process died 3 times while it was the only job there"))
state("dead.set_aside")(lambda live: die(live, "a", "set aside: no stock"))
state("dead.unusable")(lambda live: die(live, "a", "its options don't decode"))


@state("dead.buried")
def _(live: Scripts) -> None:
    live.redis.lpush(live.keys.named("queue", "q"), "a")
    worker(live)
    live.take("w")


# Queues, tasks, instances, limits


@state("queue.empty", queue="q")
def _(live: Scripts) -> None:
    worker(live)


@state("queue.moving", queue="q")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("a")


@state("queue.limited", queue="q")
def _(live: Scripts) -> None:
    States["lane.concurrency"][0](live)


for of_queue in ("paused", "unserved", "quiet", "late_leases", "full", "queue_cap", "starved", "closed_shard"):
    state(f"queue.{of_queue}", queue="q")(States[f"queued.{of_queue}"][0])


@state("task.known", task="t")
def _(live: Scripts) -> None:
    worker(live)


state("task.unknown", task="t")(States["parked.unknown_task"][0])
state("task.paused", task="t")(States["parked.task_paused"][0])


@state("instance.gone", instance="pod-w")
def _(live: Scripts) -> None: ...


@state("instance.well", instance="pod-w")
def _(live: Scripts) -> None:
    worker(live)


@state("instance.quiet", instance="w")
def _(live: Scripts) -> None:
    worker(live)
    live.store.run(t.quiet("w", True))


state("instance.full", instance="w")(States["queued.full"][0])
state("instance.lost", instance="w")(States["lost.waiting"][0])


@state("instance.over", instance="w")
def _(live: Scripts) -> None:
    worker(live)
    run_out(live)


@state("instance.testing", instance="sweeper")
def _(live: Scripts) -> None:
    States["queued.suspect"][0](live)
    assert live.take("sweeper")


state("limit.concurrency", limit="one")(States["lane.concurrency"][0])
state("limit.rate", limit="one")(States["lane.rate"][0])
state("limit.leaked_permit", limit="one")(States["lane.leaked_permit"][0])


@state("limit.free", limit="two")
def _(live: Scripts) -> None:
    worker(live)
    live.enqueue("a", extras=limits("concurrency", "two", most=9))
    assert live.take("w")


@state("limit.free.rate", limit="one")
def _(live: Scripts) -> None:
    """One start of five is no reason to wait."""
    live.enqueue("first", extras=limits("rate", most=5, span_ms=60_000))
    live.enqueue("second", extras=limits("rate", most=5, span_ms=60_000))
    worker(live)
    assert len(live.take("w", start=1)) == 1


@state("limit.unknown", limit="one")
def _(live: Scripts) -> None: ...


# The fleet

FLEET = {"none": ""}
state("fleet.lost", **FLEET)(States["lost.waiting"][0])
state("fleet.hold", **FLEET)(States["lost.hold"][0])
state("fleet.nobody", **FLEET)(States["lost.nobody_to_sweep"][0])
state("fleet.unserved", **FLEET)(States["queued.unserved"][0])
state("fleet.paused", **FLEET)(States["queued.paused"][0])
state("fleet.quiet", **FLEET)(States["queued.quiet"][0])
state("fleet.parked", **FLEET)(States["parked.unknown_task"][0])
state("fleet.dead", **FLEET)(States["dead.attempts"][0])
state("fleet.suspects", **FLEET)(States["queued.suspect"][0])


@state("fleet.overdue", **FLEET)
def _(live: Scripts) -> None:
    live.enqueue("a", delay_ms=60_000)
    live.redis.zadd(live.keys.single("scheduled"), {"a": ms(60)})


@state("fleet.limit", **FLEET)
def _(live: Scripts) -> None:
    States["lane.concurrency"][0](live)
    live.redis.hset(live.keys.single("limits"), "one", 1)  # as a worker says that starts
    (waits,) = live.redis.scan_iter(match=live.keys.tag.replace("{", "[{]") + ":waits:*", count=1000)
    live.redis.zadd(waits, {"q": ms(120)})


@state("fleet.schedule", **FLEET)
def _(live: Scripts) -> None:
    worker(live)
    live.store.run(t.schedule([("nightly", "t", "q", "0 3 * * * UTC")]))
    live.redis.zadd(live.keys.single("schedules"), {"nightly": ms(300)})


@state("fleet.versions", **FLEET)
def _(live: Scripts) -> None:
    worker(live)
    worker(live, "new", version="6.0")


async def explained(live: Scripts, server: RedisServer, **asked: Any) -> list[Explanation]:
    async with TrackedQueue(server.url, namespace=live.keys.namespace) as app:
        return await app.operator.explain(**asked)


@pytest.mark.parametrize("code", States)
async def test_each_state_has_its_code(live: Scripts, server: RedisServer, code: str) -> None:
    make, asked = States[code]
    make(live)
    found = await explained(live, server, **asked)
    code = ".".join(code.split(".")[:2])  # a third part tells two states of one code apart
    assert code in [one.code for one in found], [one.code for one in found]
    if asked:
        assert len(found) == 1
    for one in found:
        assert one.sentence.endswith(".") and "None" not in one.sentence and "  " not in one.sentence, one.sentence
        assert one.do or not one.problem, "a problem without a way out"
        assert all(fact.text and fact.source for fact in one.facts)
        if one.segments:
            assert sum(part.seconds for part in one.segments) == pytest.approx(one.total_s, abs=0.002)


def codes_in_source() -> set[str]:
    text = "".join(path.read_text() for path in Path(tracked_queue.operator.__file__).parent.glob("*.py"))
    found = set(
        re.findall(
            r'"((?:absent|scheduled|waiting|queued|lane|parked|active|lost|dead|queue|task|instance|limit|fleet)\.\w+)"',
            text,
        )
    )
    found |= {f"ended.{outcome}" for outcome in ("succeeded", "failed", "cancelled", "expired")}
    stands = {code for code in found if code.startswith("queued.")} & {
        f"queued.{what}"
        for what in ("paused", "unserved", "quiet", "late_leases", "full", "queue_cap", "starved", "closed_shard")
    }
    found |= {code.replace("queued.", "queue.") for code in stands}
    return found | {
        code.replace("lane.", "limit.") for code in found if code.startswith("lane.") and code != "lane.turn"
    }


# What a test of its own has.
ELSEWHERE = {"absent.evicted", "absent.shard"}


def test_every_code_has_a_state_and_a_place_in_the_docs() -> None:
    assert {".".join(code.split(".")[:2]) for code in States} | ELSEWHERE == codes_in_source()
    listed = set(re.findall(r"^\| `([\w.]+)` \|", DOCS.read_text(), re.M))
    assert listed == codes_in_source() | set(
        re.findall(r'"(twice\.\w+)"', (Path(tracked_queue.operator.__file__).parent / "timeline.py").read_text())
    )


def test_a_server_that_evicts_is_said_to_have_evicted() -> None:
    cause = absent("a", {}, [], Absence(evicted=5, policy="allkeys-lru"), [])
    assert cause.code == "absent.evicted" and cause.problem


async def test_a_job_in_another_shard_is_found(server: RedisServer, namespace: str) -> None:
    async with TrackedQueue(server.url, namespace=namespace, shards=2) as app:
        job = await app.enqueue("t")
        other = app.operator
        stored = other._connections.shards.of_id(job.id)
        stores = other._connections.stores
        record = await stores[stored].read_record(job.id)
        assert record
        await stores[1 - stored].read(
            ("HSET", stores[1 - stored].keys.record_of(job.id), *(part for pair in record.items() for part in pair))
        )
        await stores[stored].read(("DEL", stores[stored].keys.record_of(job.id)))
        (found,) = await app.operator.explain(job.id)
        assert found.code == "absent.shard"


async def test_why_it_ran_twice_says_how_long_both_ran(live: Scripts, server: RedisServer) -> None:
    live.enqueue("a")
    worker(live)
    (first,) = live.take("w")
    worker(live, "other")
    time.sleep(0.02)  # it runs
    run_out(live)
    assert live.recover("w").word == "ok"
    (second,) = live.take("other")
    time.sleep(0.05)  # both run
    assert live.store.run(t.late("w", [LateOutcome(first.id, first.delivery, OutcomeKind.SUCCEEDED, 100)])) == 1
    live.settle("other", second, "succeeded", ms=60_000)
    (found,) = await explained(live, server, job_id="a")
    assert found.code == "ended.succeeded" and found.twice == "twice.recovered"
    assert [run.end for run in found.runs] == ["recovered", "succeeded"]
    assert found.runs[0].late_outcome == "succeeded" and found.runs[0].overlap_s >= 0.04
    assert "its lease ran out" in found.twice_sentence and "at the same time" in found.twice_sentence
    whats = [part.what for part in found.segments if part.what in ("run", "lost run")]
    assert whats == ["lost run", "run"] and found.segments[-1].seconds >= 0.04


async def test_an_explanation_takes_few_commands(live: Scripts, server: RedisServer) -> None:
    for code in ("queued.behind", "lane.concurrency", "active.running", "ended.succeeded", "absent.unknown"):
        States[code][0](live)
        async with TrackedQueue(server.url, namespace=live.keys.namespace) as app:
            await app.operator.explain(queue="nothing")  # whatever is asked once
            before = int(live.redis.info("stats")["total_commands_processed"])
            await app.operator.explain("a")
            sent = int(live.redis.info("stats")["total_commands_processed"]) - before
        assert sent <= 45, f"{code}: {sent}"
        live.redis.delete("nothing", *live.redis.scan_iter(match=live.keys.tag.replace("{", "[{]") + ":*"))


async def test_a_limit_is_known_by_the_name_that_people_gave_it(app: TrackedQueue) -> None:
    gate = asyncio.Event()

    @app.task(name="slow", limit=Concurrency(1, name="adders"))
    async def slow() -> None:
        await gate.wait()

    @app.task(name="other", limit=Concurrency(1))
    async def other() -> None:
        await gate.wait()

    async with app, running_worker(app):
        jobs = [await task.enqueue() for task in (slow, slow, other, other)]
        await wait_until(lambda: has_state(jobs[2], "active"), what="both limits to be full")
        for name, shown in (("adders", "adders"), ("task other", "task other"), ("other", "task other")):
            (found,) = await app.operator.explain(limit=name)
            assert found.code == "limit.concurrency" and f"Limit {shown} is full" in found.sentence
        (waits,) = await app.operator.explain(jobs[1].id)
        assert waits.code == "lane.concurrency" and "--limit adders" in waits.do[0]
        gate.set()


async def has_state(job: Any, state: str) -> bool:
    return bool(await job.status() == state)


@pytest.mark.parametrize("queues", [20, 200])
async def test_reading_the_fleet_takes_a_bounded_number_of_commands(
    live: Scripts, server: RedisServer, queues: int
) -> None:
    names = [f"q{n}" for n in range(queues)]
    for name in names:
        live.enqueue(*(f"{name}-{n}" for n in range(30)), queue=name)
    for n in range(20):
        worker(live, f"w{n}", queues="\n".join(names[n : n + 3]))
    async with TrackedQueue(server.url, namespace=live.keys.namespace) as app:
        await app.operator.queues()
        for read, most in (
            (app.operator.queues, 7 * queues + 2200),  # of 50 queues and instances some heads are looked at
            (app.operator.instances, 60),
            (lambda: app.operator.jobs("queued"), 300),
            (lambda: app.operator.explain(queue="q1"), 80),
        ):
            before = int(live.redis.info("stats")["total_commands_processed"])
            await read()
            assert int(live.redis.info("stats")["total_commands_processed"]) - before <= most


@pytest.mark.parametrize(
    "asked", [{}, {"job_id": "a"}, {"queue": "q"}, {"task": "t"}, {"instance": "w"}, {"limit": "x"}]
)
async def test_explaining_writes_nothing(live: Scripts, server: RedisServer, asked: dict[str, str]) -> None:
    """Not even the number of shards of a namespace that was mistyped."""
    before = live.snapshot()
    await explained(live, server, **asked)
    assert live.snapshot() == before


@pytest.mark.parametrize("nth_start, code", [(0, ""), (1_000_000 - 70_000, ""), (1_000_000 - 20_000, "lane.rate")])
def test_a_rate_is_used_up_only_by_as_many_starts_as_it_allows(nth_start: int, code: str) -> None:
    """The last start alone says nothing."""
    limit = LimitScene(
        name="one", kind="rate", most=5, ms=60_000, in_use=0, last_start=1_000_000 - 5, nth_start=nth_start
    )
    cause = limit_cause(limit, 1_000_000)
    assert (cause.code if cause else "") == code
    assert cause is None or "the next one is 40 s away" in cause.sentence
