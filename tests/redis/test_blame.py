"""Who is to blame for a dead process, by the scripts: docs/explanation/blame.md says what must hold here."""

from __future__ import annotations

import msgspec
import pytest

from tests.harness import INTERVAL, TTL, Scripts, request
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.transitions import End, Fate, Mode, Verdict


def ids(jobs: list[t.FetchedJob]) -> list[str]:
    return [job.id.decode() for job in jobs]


def dies(q: Scripts, lease: str, end: End = End.DIED, *, beside: int = 0) -> dict[str, Fate]:
    q.release(lease, end, beside=beside)
    moved: dict[str, Fate] = {}
    while (portion := q.recover(lease)).word == "ok":
        moved |= {job.id: job.fate for job in portion.jobs}
    return moved


def blame(q: Scripts, id: str) -> tuple[int | None, int, int, int]:
    """Its pool (None: above suspicion), past in ms, charges, deaths."""
    record = q.job(id)
    pool = int(record["pool"]) if "pool" in record else None
    return pool, *(int(record.get(name, 0)) for name in ("past", "charges", "deaths"))  # type: ignore[return-value]


def dead_after(q: Scripts, *names: str, after: float = 1.0, lease: str = "first") -> None:
    """Those jobs are in one process that dies."""
    q.enqueue(*names)
    q.register(lease)
    assert sorted(ids(q.take(lease, start=len(names)))) == sorted(names)
    q.pass_time(after)
    dies(q, lease)


def suspect(
    q: Scripts, name: str, queue: str = "q", *, pool: int = 1, past_s: float = 1.0, deaths: int = 1, **more: str
) -> None:
    """A suspect in line, as deaths have left it."""
    q.store.run(t.enqueue([request(name, queue=queue)]))
    q.redis.lrem(q.keys.named("queue", queue), 1, name)
    fields = {"pool": pool, "past": round(past_s * 1000), "deaths": deaths, "recoveries": deaths, "delivery": 1, **more}
    q.redis.hset(q.keys.named("job", name), mapping=fields)
    q.redis.zadd(q.keys.named("suspected", queue), {name: q.now()})
    q.redis.sadd(q.keys.single("suspecting"), queue)


# What a death says


def test_after_one_death_all_that_were_there_are_suspects_with_a_quarter_of_its_company(q: Scripts) -> None:
    dead_after(q, *(f"j{n}" for n in range(10)), after=0.5)
    assert {blame(q, f"j{n}") for n in range(10)} == {(3, 500, 0, 1)}
    assert len(q.suspects()) == 10 and q.listed("queue", "q") == []
    assert q.job("j0")["recoveries"] == "1" and q.state("j0") == "queued"


def test_what_started_last_is_tried_first(q: Scripts) -> None:
    q.enqueue("a", "b", "c")
    q.register("w")
    for _ in range(3):
        q.take("w", start=1)
        q.pass_time(0.1)
    dies(q, "w")
    assert q.suspects() == ["c", "b", "a"]


@pytest.mark.parametrize("end", [End.INTERRUPTED, "lost", "outage"])
def test_what_was_ended_on_purpose_or_ran_out_says_nothing(q: Scripts, end: End | str) -> None:
    """Machines that vanish (spot), deploys, and Redis away: nobody comes under suspicion, and a suspect stays what it was."""
    suspect(q, "s", pool=3)
    q.enqueue("fresh")
    before = {name: blame(q, name) for name in ("s", "fresh")}
    q.register("watcher")
    for death in range(5):
        for mode, name in ((Mode.ONLY, "s"), (Mode.NONE, "fresh")):
            lease = f"{mode}{death}"
            q.register(lease)
            assert ids(q.take(lease, mode=mode)) == [name]
            if end == End.INTERRUPTED:
                dies(q, lease, End.INTERRUPTED)
                continue
            if end == "outage":
                q.pass_time(3 * TTL)
            for _ in range(2 * int(TTL / INTERVAL) + 2):
                q.pass_time(INTERVAL)
                q.beat("watcher")
            assert q.recover(lease).word == "ok"
    assert {name: blame(q, name) for name in before} == before
    assert q.suspects() == ["s"] and q.listed("queue", "q") == ["fresh"]
    assert q.job("fresh")["recoveries" if end == "lost" else "interruptions"] == "5"


def test_only_the_one_job_of_a_process_is_charged_and_dead_at_the_third(q: Scripts) -> None:
    """CASE-35, CASE-36."""
    q.enqueue("poison", "good")
    fates = []
    for death in range(1, 5):
        lease = f"w{death}"
        q.register(lease)
        taken = ids(q.take(lease))
        if death == 1:
            assert taken == ["poison", "good"]
        elif taken == ["good"]:
            assert q.settle(lease, t.FetchedJob(b"good", q.job("good")["delivery"].encode(), b"0", b"q"), "succeeded")
            taken = ids(q.take(lease))
        q.pass_time(0.2)
        fates.append(dies(q, lease)["poison"])
        q.pass_time(1)
    assert fates == [Fate.REQUEUED] * 3 + [Fate.DEAD]
    assert q.job("poison")["charges"] == "3" and q.state("poison") == "dead"
    assert q.job("poison")["reason"] == "its process died 3 times while it was the only job there"
    assert q.state("good") == "succeeded" and "charges" not in q.job("good")


@pytest.mark.parametrize(("end", "beside"), [(End.DIED, 1), (End.CONTAINER, 0)])
def test_who_may_have_had_company_elsewhere_is_not_charged_before_its_thirteenth_death(
    q: Scripts, end: End, beside: int
) -> None:
    q.enqueue("a")
    for death in range(1, 16):
        q.register(f"w{death}")
        assert ids(q.take(f"w{death}")) == ["a"]
        q.pass_time(0.1)
        fate = dies(q, f"w{death}", end, beside=beside)["a"]
        assert blame(q, "a")[2] == max(0, death - 12), death
        assert fate is (Fate.DEAD if death == 15 else Fate.REQUEUED)
        q.pass_time(100)


def test_after_the_end_of_a_whole_container_its_jobs_stay_together_once(q: Scripts) -> None:
    """As a rule somebody ended it: they are not tried one after the other for that."""
    q.enqueue(*(f"j{n}" for n in range(8)))
    for death, pool in ((1, 8), (2, 2)):
        q.register(f"w{death}")
        assert len(q.take(f"w{death}")) == 8
        dies(q, f"w{death}", End.CONTAINER)
        assert {blame(q, f"j{n}")[0] for n in range(8)} == {pool}


def test_who_has_outlived_its_gate_is_acquitted_by_the_next_death(q: Scripts) -> None:
    """The one that killed it before would have done so by then; somebody else is there who explains it."""
    dead_after(q, "a", "b", "c", "d", "e", after=1.0)
    q.register("w")
    assert len(q.take("w")) == 2
    running = q.listed("processing", "w")
    q.pass_time(3.1)  # the gate is 2 x 1 s + 1 s
    q.enqueue("fresh")
    assert ids(q.take("w", mode=Mode.IDLE)) == ["fresh"]
    q.pass_time(0.5)
    dies(q, "w")
    assert {blame(q, name) for name in running} == {(None, 0, 0, 1)}
    assert sorted(q.listed("queue", "q")) == sorted(running)
    assert blame(q, "fresh") == (1, 500, 0, 1)


def test_one_that_was_alone_past_its_gate_is_not_charged_but_has_a_longer_gate(q: Scripts) -> None:
    dead_after(q, "a", "b", after=1.0)
    q.register("w")
    (one,) = ids(q.take("w"))
    q.pass_time(5)
    dies(q, "w")
    assert blame(q, one) == (1, 5000, 0, 2)


def test_the_time_of_an_outage_is_no_running_time(q: Scripts) -> None:
    """The supervisor saw it die a minute ago, and Redis was away."""
    q.enqueue("a", "b")
    q.register("w")
    q.take("w")
    q.pass_time(2)
    q.redis.incrby(q.keys.single("clock"), 20_000)
    q.beat("w")
    q.release("w", ago=20.0)
    q.recover("w")
    assert blame(q, "a")[1] == 2000


def test_of_a_large_list_every_portion_has_the_company_of_all(q: Scripts) -> None:
    q.enqueue(*(f"j{n}" for n in range(9)))
    q.register("w")
    q.take("w", start=9)
    q.release("w")
    for _ in range(3):
        assert q.recover("w", n=3).word == "ok"
    assert {blame(q, f"j{n}")[0] for n in range(9)} == {3}
    assert {blame(q, f"j{n}")[2] for n in range(9)} == {0}


# In what company suspects run


def test_nothing_joins_suspects_until_they_are_past_their_gates(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(8)), after=1.0)
    q.enqueue("f1", "f2")
    q.register("w")
    reply = q.fetch("w", buffer=5)
    assert (
        len(reply.jobs) == 2
        and reply.held == 3.0
        and reply.suspects
        and all(job.buffered == b"0" for job in reply.jobs)
    )
    assert q.marker() and q.redis.exists(q.keys.named("wake_suspects", "q")), "others may have what is left"
    for mode in Mode:
        assert q.take("w", buffer=5, mode=mode) == []
    q.pass_time(3.1)
    reply = q.fetch("w", buffer=1, start=1, mode=Mode.IDLE)
    assert ids(reply.jobs) == ["f1"], "nothing waits beside what was a suspect"


def test_the_hold_is_over_when_they_have_ended(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(8)), after=1.0)
    q.register("w")
    one, two = q.take("w")
    assert q.settle("w", one, "succeeded") is Verdict.OK
    assert q.take("w") == []
    assert q.settle("w", two, "failed") is Verdict.OK
    assert len(q.take("w")) == 2


def test_a_group_is_no_larger_than_any_of_its_pools(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(8)))
    q.redis.hset(q.keys.named("job", q.suspects()[1]), "pool", 1)
    q.register("w")
    q.register("v")
    assert len(q.take("w")) == 1, "the second in line runs alone"
    assert len(q.take("v")) == 1
    assert len(q.take("v", start=10)) == 0


def test_of_the_processes_for_suspects_the_second_leaves_long_tests_to_the_first(q: Scripts) -> None:
    suspect(q, "long", past_s=60)
    suspect(q, "short")
    q.enqueue("fresh")
    for lease, mode, expected in (
        ("s", Mode.SHORT, ["short"]),
        ("i", Mode.IDLE, ["fresh"]),
        ("o", Mode.ONLY, ["long"]),
    ):
        q.register(lease)
        assert ids(q.take(lease, mode=mode)) == expected, mode
    suspect(q, "medium", past_s=20)
    for lease, mode, expected in (("i2", Mode.IDLE, []), ("n", Mode.NONE, []), ("s2", Mode.SHORT, ["medium"])):
        q.register(lease)
        assert ids(q.take(lease, mode=mode)) == expected, mode


def test_an_ordinary_process_takes_fresh_jobs_first(q: Scripts) -> None:
    dead_after(q, "s1", "s2")
    q.enqueue("fresh")
    q.register("w")
    (fresh,) = q.take("w", mode=Mode.IDLE)
    assert fresh.id == b"fresh" and q.take("w", mode=Mode.IDLE) == [], "not beside what runs"
    q.settle("w", fresh, "succeeded")
    assert len(q.take("w", mode=Mode.IDLE)) == 1


def test_a_process_for_suspects_is_joined_by_others_after_a_while(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(8)), after=0.5)
    q.register("w")
    assert len(q.take("w", mode=Mode.ONLY)) == 2
    q.pass_time(2.1)
    assert q.take("w", mode=Mode.ONLY) == [], "past their gates, but that was a moment ago"
    q.pass_time(3)
    assert len(q.take("w", mode=Mode.ONLY)) == 2


def test_one_that_is_to_run_alone_waits_for_an_empty_process_but_not_for_ever(q: Scripts) -> None:
    suspect(q, "a", past_s=0.0)
    q.register("w")
    assert ids(q.take("w", mode=Mode.ONLY)) == ["a"]
    suspect(q, "b")
    q.pass_time(6)
    q.beat("w")
    assert q.take("w", mode=Mode.ONLY) == []
    q.pass_time(4.1)
    q.beat("w")
    assert ids(q.take("w", mode=Mode.ONLY)) == ["b"]


def test_without_a_supervisor_half_of_the_instances_go_on_with_fresh_jobs(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(40)))
    q.enqueue("f1", "f2", "f3", "f4")
    taken = {}
    for lease in ("a", "b", "c", "d"):
        q.register(lease)
    for lease in ("a", "b", "c", "d"):
        taken[lease] = ids(q.take(lease, start=2))
    assert sorted(name[0] for jobs in taken.values() for name in jobs) == ["f"] * 4 + ["s"] * 4


def test_without_a_supervisor_a_busy_instance_becomes_empty_for_suspects_that_wait_long(q: Scripts) -> None:
    """Else they would wait for ever, since it is never empty by itself."""
    q.register("w")
    q.enqueue(*(f"f{n}" for n in range(90)))
    running = q.take("w", start=2)
    suspect(q, "s")
    waited = 0
    while b"s" not in [job.id for job in running]:
        waited += 1
        assert waited < 70, "a minute until it drains, and two seconds until it is empty"
        q.pass_time(1)
        q.beat("w")
        q.settle("w", running.pop(0), "succeeded")
        reply = q.fetch("w", start=2 - len(running))
        running += reply.jobs
        assert reply.jobs or reply.held == 1.0
    assert ids(running) == ["s"] and waited > 60


# What becomes of them


@pytest.mark.parametrize("outcome", ["retry", "snoozed"])
def test_who_ends_its_run_is_acquitted_unless_it_was_in_twelve_deaths(q: Scripts, outcome: str) -> None:
    for deaths, expected in ((3, None), (12, 1)):
        name, lease = f"s{deaths}", f"w{deaths}"
        q.register(lease)
        suspect(q, name, deaths=deaths)
        (job,) = q.take(lease)
        assert q.settle(lease, job, outcome, 1) is Verdict.OK
        q.pass_time(1)
        assert (blame(q, name)[0], blame(q, name)[3]) == (expected, deaths)
        assert ids(q.take(lease, mode=Mode.NONE)) == ([name] if expected is None else [])


@pytest.mark.parametrize("outcome", ["interrupted", "unstarted", "parked"])
def test_who_was_handed_back_stays_a_suspect(q: Scripts, outcome: str) -> None:
    dead_after(q, "s")
    before = blame(q, "s")
    q.register("w")
    (job,) = q.take("w")
    q.settle("w", job, outcome)
    if outcome == "parked":
        assert q.suspects() == [] and q.store.run(t.unpark("t", [])) == (1, 0)
    assert blame(q, "s") == before and q.suspects() == ["s"] and q.listed("queue", "q") == []
    assert len(q.take("w")) == 1


def test_a_requeue_on_a_persons_word_begins_anew(q: Scripts) -> None:
    dead_after(q, "s")
    for n in range(3):
        q.register(f"w{n}")
        q.take(f"w{n}")
        dies(q, f"w{n}")
        q.pass_time(100)
        if q.state("s") == "dead":
            break
    assert q.store.run(t.requeue(["s"])) == ["ok"]
    assert blame(q, "s") == (None, 0, 0, 0) and q.listed("queue", "q") == ["s"]


def test_a_cancelled_suspect_leaves_its_line_at_once(q: Scripts) -> None:
    dead_after(q, "s")
    q.store.run(t.cancel(["s"], 60.0))
    assert q.suspects() == [] and not q.redis.exists(q.keys.single("suspecting")) and q.ttl("s") > 0


def test_a_full_limit_or_a_pause_holds_up_nobody_behind_it(q: Scripts) -> None:
    limits = msgspec.msgpack.encode([["L", "concurrency", 1, 0, 1]])
    for name, more in (("held", {"limits": limits, "tied": "1"}), ("off", {"task": "off"}), ("free", {})):
        suspect(q, name, **more)
        q.pass_time(1)
    q.redis.sadd(q.keys.named("permits", "L"), "other")
    q.store.run(t.pause("task:off"))
    q.register("w")
    assert ids(q.take("w")) == ["free"] and q.state("off") == "parked" and q.suspects() == ["held"]
    q.store.run(t.resume("task:off"))
    q.store.run(t.unpark("off", []))
    assert q.suspects() == ["held", "off"]


def test_a_paused_queue_keeps_its_suspects(q: Scripts) -> None:
    dead_after(q, "s")
    q.register("w")
    beat = q.beat("w")
    assert beat is not None and beat.suspecting == ("q",)
    q.store.run(t.pause("queue:q"))
    beat = q.beat("w")
    assert beat is not None and beat.suspecting == (), "no process is started for what may not run"
    assert q.take("w") == [] and not q.redis.exists(q.keys.named("wake_suspects", "q"))
    q.store.run(t.resume("queue:q"))
    assert q.redis.exists(q.keys.named("wake_suspects", "q")) and ids(q.take("w")) == ["s"]


def test_an_id_in_the_line_without_a_record_is_buried(q: Scripts) -> None:
    dead_after(q, "a", "b")
    q.redis.delete(q.keys.named("job", "a"), q.keys.named("job", "b"))
    q.register("w")
    assert sorted(q.fetch("w").buried) == ["a", "b"] and q.suspects() == []


def test_a_repeated_fetch_returns_the_same_group(q: Scripts) -> None:
    dead_after(q, *(f"s{n}" for n in range(8)))
    q.register("w")
    first = q.fetch("w", number=1)
    again = q.fetch("w", number=1)
    assert sorted(ids(again.jobs)) == sorted(ids(first.jobs)) and again.held == first.held > 0


def test_an_earlier_versions_suspects_are_taken_over_at_a_start(q: Scripts) -> None:
    q.enqueue("a")
    q.redis.rename(q.keys.named("queue", "q"), q.keys.named("suspects", "q"))
    q.pop_marker()
    q.store.run(t.register("w", TTL, INTERVAL, {"label": "w", "queues": "other\nq"}))
    assert q.marker() and ids(q.take("w")) == ["a"] and not q.redis.exists(q.keys.named("suspects", "q"))


def test_a_container_that_came_back_tells_what_the_end_of_its_former_lease_means(q: Scripts) -> None:
    """Nobody saw it die; but another program has its name on that machine, so if its lease runs out it did."""
    q.enqueue("poison")
    deaths = 0
    while q.state("poison") != "dead":
        lease = f"w{deaths}"
        q.register(lease)
        if deaths:
            former = f"w{deaths - 1}"
            assert not q.store.run(t.release(former, End.DIED, proven=False))
            for _ in range(3 + int(TTL / INTERVAL)):
                q.pass_time(INTERVAL)
                q.beat(lease)
            assert q.recover(former).word == "ok"
        if q.state("poison") == "queued":
            assert len(q.take(lease)) == 1
        q.pass_time(4 * TTL)
        deaths += 1
        assert deaths < 8
    assert q.job("poison")["charges"] == "3"


@pytest.mark.parametrize(("poison", "healthy", "slots"), [(1, 49, 50), (3, 60, 10), (2, 30, 1)])
def test_poison_is_set_aside_and_nobody_else_is_charged(q: Scripts, poison: int, healthy: int, slots: int) -> None:
    """One process without a supervisor, again and again, until all has ended: 0 healthy charged, few deaths."""
    names = [f"h{n}" for n in range(healthy)] + [f"p{n}" for n in range(poison)]
    q.enqueue(*names[::2], *names[1::2])
    deaths, lease, running = 0, "w0", list[t.FetchedJob]()
    q.register(lease)
    for _ in range(2000):
        open_jobs = [name for name in names if q.state(name) not in ("succeeded", "dead")]
        if not open_jobs:
            break
        running += q.take(lease, start=slots - len(running))
        q.pass_time(0.5)
        q.beat(lease)
        if any(job.id.startswith(b"p") for job in running):
            dies(q, lease)
            deaths += 1
            lease, running = f"w{deaths}", []
            q.register(lease)
        elif running:
            assert q.settle(lease, running.pop(0), "succeeded") is Verdict.OK
    assert {name: q.state(name) for name in names if name[0] == "h" and q.state(name) != "succeeded"} == {}
    assert [q.state(f"p{n}") for n in range(poison)] == ["dead"] * poison
    assert all("charges" not in q.job(name) for name in names if name[0] == "h")
    assert deaths <= 9 * poison, deaths
