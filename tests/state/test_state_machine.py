"""
Random histories of the real scripts with everything a team uses, against a small model of what must hold after each step.

Hypothesis chooses the steps and shrinks a failing history to a short one, which it prints and replays.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness import Scripts, request
from tests.server import RedisServer
from tracked_queue import transitions as t
from tracked_queue.scripts import Script, load_scripts, make_script, read_source

FINAL = {"succeeded", "failed", "cancelled", "expired", "dead"}
LIMITS = {"one": 1, "two": 2}
QUEUES = ("q", "low")
LEASES = ("w1", "w2")
_number = itertools.count()


class Machine(RuleBasedStateMachine):
    """One shard, two instances, two queues, two limits, three unique keys."""

    url = ""
    changed: dict[str, Script] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.q = Scripts(self.url, f"m{os.getpid()}-{next(_number)}", self.changed)
        self.jobs: list[str] = []
        self.requests: dict[str, t.Request] = {}
        self.unique: dict[str, tuple[str, str]] = {}
        self.limits: dict[str, tuple[str, ...]] = {}
        self.after: dict[str, tuple[list[str], str]] = {}
        self.held: list[tuple[str, t.Delivered]] = []
        self.settled: set[tuple[bytes, bytes]] = set()
        self.expiring: set[str] = set()

    @initialize()
    def start(self) -> None:
        for lease in LEASES:
            self.q.register(lease)

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.q.redis.delete(*self.q.redis.keys(self.q.keys.tag.replace("{", "[{]") + ":*"))
            self.q.close()

    # Steps

    @rule(
        queue=st.sampled_from(QUEUES),
        key=st.sampled_from([None, "k1", "k2"]),
        until=st.sampled_from(["started", "done"]),
        conflict=st.sampled_from(["existing", "replace"]),
        limits=st.sampled_from([(), ("one",), ("two",), ("one", "two")]),
        turn=st.sampled_from([None, "a", "b"]),
        delay=st.sampled_from([0, 0, 500]),
        expires=st.sampled_from([None, None, 800]),
        after=st.integers(0, 3),
        on_failure=st.sampled_from(["fail", "ignore", "fallback"]),
        data=st.data(),
    )
    def enqueue(
        self, queue: str, key: str | None, until: str, conflict: str, limits: tuple[str, ...], turn: str | None,
        delay: int, expires: int | None, after: int, on_failure: str, data: st.DataObject,
    ) -> None:  # fmt: skip
        job = f"j{len(self.jobs)}"
        extras: dict[str, Any] = {}
        if key is not None:
            extras["unique"] = [key, until, conflict, 0]
        if limits or turn:
            extras["lane"] = f"{queue}\n{'|'.join(limits)}:{turn}"
        if limits:
            extras["limits"] = [[name, "concurrency", LIMITS[name], 0] for name in limits]
        if expires is not None:
            extras["expires"] = f"+{expires}"
        known = [other for other in self.jobs if self.q.state(other)]
        before = data.draw(st.lists(st.sampled_from(known), max_size=after, unique=True)) if known and after else []
        if before:
            extras["after"], extras["on_failure"] = before, on_failure
        packed = msgspec.msgpack.encode(extras) if extras else b""
        made = request(job, queue=queue, extras=packed, delay_ms=delay or None)
        (answer,) = self.q.store.run(t.enqueue([made]))
        holder = self._holder(key) if key is not None else None
        if isinstance(answer, t.Conflict):
            assert answer.word in ("held", "replaced") and holder == answer.id, "a key was held by nobody, or another"
            return
        assert answer is True
        self.jobs.append(job)
        self.requests[job], self.limits[job] = made, limits
        if key is not None:
            assert holder in (None, job), "two jobs hold one key"
            self.unique[job] = (key, until)
        if before:
            self.after[job] = (before, on_failure)
        if expires is not None:
            self.expiring.add(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if self.q.state(job):
            before = self.q.snapshot()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [False]
            assert self.q.snapshot() == before

    @rule(
        lease=st.sampled_from(LEASES), start=st.integers(1, 3), buffer=st.integers(0, 2), queues=st.permutations(QUEUES)
    )
    def fetch(self, lease: str, start: int, buffer: int, queues: list[str]) -> None:
        reply = self.q.fetch(lease, start=start, buffer=buffer, queues=tuple(queues))
        if isinstance(reply, t.Fetched):
            assert len(reply.jobs) <= start + buffer
            self.held += [(lease, job) for job in reply.jobs]

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(
            ["succeeded", "succeeded", "failed", "dead", "retry", "snoozed", "interrupted", "unstarted", "parked"]
        ),
        twice=st.booleans(),
    )
    def settle(self, data: st.DataObject, outcome: str, twice: bool) -> None:
        lease, job = data.draw(st.sampled_from(self.held))
        owner = self.q.job(job.id.decode())
        owns = (
            owner.get("delivery") == job.delivery.decode()
            and owner.get("lease") == lease
            and owner.get("state") == "active"
        )
        verdict = self.q.settle(lease, job, outcome, 200 if outcome in ("retry", "snoozed") else 1)
        assert (verdict is t.Verdict.OK) is owns, f"{verdict} for {'the owner' if owns else 'a stranger'}"
        if owns:
            assert (job.id, job.delivery) not in self.settled, "one delivery settled twice"
            self.settled.add((job.id, job.delivery))
        if twice:
            before = self.q.snapshot()
            assert self.q.settle(lease, job, outcome, 200) in (t.Verdict.AGAIN, t.Verdict.FENCED)
            assert self.q.snapshot() == before
        self.held.remove((lease, job))

    @rule(lease=st.sampled_from(LEASES), portion=st.integers(1, 3), interrupted=st.booleans())
    def crash(self, lease: str, portion: int, interrupted: bool) -> None:
        """The instance dies, is recovered in portions, and comes back; what its former self held it may still settle."""
        self.q.release(lease, interrupted=interrupted)
        while self.q.recover(lease, n=portion).word == "ok":
            pass
        self.q.numbers[lease] = 0
        self.q.register(lease)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.q.pass_time(seconds)
        for lease in LEASES:
            assert self.q.beat(lease) is not None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        was = self.q.state(job)
        (word,) = self.q.store.run(t.cancel([job], 3600))
        expected = "gone" if not was else "ended" if was in FINAL else "requested" if was == "active" else "cancelled"
        assert word == expected

    @rule(what=st.sampled_from(["queue:q", "task:t"]), on=st.booleans())
    def pause(self, what: str, on: bool) -> None:
        self.q.store.run(t.pause(what) if on else t.resume(what))

    @rule()
    def unpark(self) -> None:
        self.q.store.run(t.unpark("t", []))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        was, key = self.q.state(job), self.unique.get(job)
        holder = self._holder(key[0]) if key else None
        (word,) = self.q.store.run(t.requeue([job]))
        if was == "dead":
            assert word == ("held" if holder not in (None, job) else "ok")
            if word == "ok":
                self.settled = {item for item in self.settled if item[0] != job.encode()}

    # What must hold

    LOOK = """
    local found = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
      local kind = redis.call('TYPE', key).ok
      local value
      if kind == 'hash' then value = redis.call('HGETALL', key)
      elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
      elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1)
      elseif kind == 'set' then value = redis.call('SMEMBERS', key)
      else value = { redis.call('GET', key) } end
      found[#found + 1] = { string.sub(key, #ARGV[2] + 2), value }
    end
    return found
    """

    def look(self) -> dict[str, Any]:
        """All keys of this machine: records as dicts, lists and sets as lists of text."""
        pattern = self.q.keys.tag.replace("{", "[{]") + ":*"
        view: dict[str, Any] = {}
        for name, value in self.q.redis.eval(self.LOOK, 0, pattern, self.q.keys.tag):
            texts = [item.decode("utf-8", "replace") for item in value]
            is_map = name.startswith((b"job:", b"laned"))
            view[name.decode()] = dict(zip(texts[::2], texts[1::2], strict=True)) if is_map else texts
        return view

    @invariant()
    def all_of_it_holds(self) -> None:
        view = self.look()
        states = {job: view.get(f"job:{job}", {}).get("state", "") for job in self.jobs}
        self.each_job_is_in_one_place(view, states)
        self.permits_are_those_of_active_jobs_and_never_too_many(view, states)
        self.a_lane_that_holds_jobs_stands_in_one_place(view)
        self.one_open_job_holds_a_unique_key(view)
        self.waiting_jobs_have_something_to_wait_for(view, states)

    def _holder(self, key: str) -> str | None:
        raw = self.q.redis.get(self.q.keys.named("unique", key))
        if raw is None:
            return None
        record = self.q.job(raw.decode())
        return raw.decode() if record.get("unique") == key and record.get("state") not in (*FINAL, None) else None

    def each_job_is_in_one_place(self, view: dict[str, Any], states: dict[str, str]) -> None:
        places: dict[str, list[str]] = {}
        where = {"queue": "queued", "suspects": "queued", "lane": "queued", "processing": "active", "parked": "parked"}
        where |= {"scheduled": "scheduled", "dead": "dead"}
        for key, ids in view.items():
            kind, colon, _ = key.partition(":")
            if kind in where and not (kind == "parked" and not colon):
                for job in ids:
                    places.setdefault(job, []).append(where[kind])
        for job, state in states.items():
            found = places.get(job, [])
            if state == "cancelled":
                assert len(found) <= 1 and "active" not in found, (job, found)
            elif state in ("succeeded", "failed", "expired", "waiting"):
                assert not found, (job, state, found)
            else:
                assert found == [state], (job, state, found)

    def permits_are_those_of_active_jobs_and_never_too_many(self, view: dict[str, Any], states: dict[str, str]) -> None:
        for name, most in LIMITS.items():
            holders = set(view.get(f"permits:{name}", ()))
            active = {job for job in self.jobs if name in self.limits[job] and states[job] == "active"}
            assert holders == active and len(holders) <= most, (name, holders, active)

    def a_lane_that_holds_jobs_stands_in_one_place(self, view: dict[str, Any]) -> None:
        counts: dict[str, int] = {}
        for key, ids in view.items():
            kind, _, lane = key.partition(":")
            if kind != "lane":
                continue
            queue = lane.split("\n")[0]
            places = [lane in view.get(f"lanes:{queue}", ())]
            places += [lane in view.get(f"waiting:{name}", ()) for name in LIMITS]
            assert sum(places) == 1, (lane, places)
            counts[queue] = counts.get(queue, 0) + len(ids)
            assert view[f"laned:{queue}"][lane] == str(len(ids))
        assert {queue: int(count) for queue, count in view.get("laned", {}).items()} == counts

    def one_open_job_holds_a_unique_key(self, view: dict[str, Any]) -> None:
        open_jobs: dict[str, list[str]] = {}
        for job, (key, until) in self.unique.items():
            record = view.get(f"job:{job}", {})
            fresh = record.get("delivery") == "0"
            if record.get("state") not in (*FINAL, None) and (until == "done" or fresh):
                open_jobs.setdefault(key, []).append(job)
        for key, jobs in open_jobs.items():
            (holder,) = view.get(f"unique:{key}", [None])
            assert jobs == [holder], (key, jobs, holder)

    def waiting_jobs_have_something_to_wait_for(self, view: dict[str, Any], states: dict[str, str]) -> None:
        told = view.get("ended", ())
        for job, (before, _) in self.after.items():
            if states[job] == "waiting":
                assert any(other in told or states[other] not in FINAL for other in before), (job, before)

    def everything_ends(self) -> None:
        """With two healthy instances and nothing paused, every job comes to an end: no permit, lane or follower is stuck."""
        for what in ("queue:q", "task:t"):
            self.q.store.run(t.resume(what))
        for _ in range(200):
            open_jobs = [job for job in self.jobs if self.q.state(job) not in (*FINAL, "")]
            listed = self.q.redis.keys(self.q.keys.tag.replace("{", "[{]") + ":lane*")
            if not open_jobs and not listed and not self.q.redis.exists(self.q.keys.single("ended")):
                break  # cancelled ones are dropped by a fetch as well
            self.q.store.run(t.unpark("t", []))
            self.time_passes(1.0)
            for lease in LEASES:
                for job in self.q.take(lease, queues=QUEUES):
                    assert self.q.settle(lease, job, "succeeded") is t.Verdict.OK
                for lease_held, held in self.held:
                    if lease_held == lease:
                        self.q.settle(lease, held, "succeeded")
        else:
            raise AssertionError(f"these never end: {[(job, self.q.job(job)) for job in open_jobs]}")
        for kind in ("permits", "lane", "lanes", "waiting", "followers", "laned"):
            left = list(self.q.redis.scan_iter(match=self.q.keys.tag.replace("{", "[{]") + f":{kind}*", count=1000))
            assert not left, f"left behind: {left}"
        for key in ("k1", "k2"):
            assert self.q.redis.get(self.q.keys.named("unique", key)) is None


def run_machine(
    url: str, examples: int, steps: int, changed: dict[str, Script] | None = None, *, shrink: bool = True
) -> None:
    kind = type("TheMachine", (Machine,), {"url": url, "changed": changed})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            report_multiple_bugs=False,
        ),
    )


@pytest.mark.timeout(280)
def test_random_histories_keep_every_promise(server: RedisServer) -> None:
    run_machine(server.url, int(os.environ.get("STATE_EXAMPLES", "150")), int(os.environ.get("STATE_STEPS", "40")))


FAULTS: dict[str, tuple[str, str, str]] = {
    "settle keeps the permit": ("settle", "free_permits(id, ties.limits, paused)  -- whatever", "-- whatever"),
    "recover keeps the permit": ("recover", "    free_permits(id, ties.limits, paused)\n", ""),
    "fetch counts no permits": ("fetch", "      count_permits(limits)\n", ""),
    "enqueue ignores the key": ("enqueue", "if holder and holder ~= id then", "if false then"),
    "fetch forgets a blocked lane": ("fetch", "redis.call('ZADD', named('waiting', lane.full), now, lane.lane)", ""),
    "followers are not told of a failure": ("fetch", "follower.failed = follower.failed + 1", "follower.waits = follower.waits + 1"),
}  # fmt: skip


@pytest.mark.timeout(280)
@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_a_fault_put_into_a_script(server: RedisServer, fault: str) -> None:
    name, old, new = FAULTS[fault]
    source = read_source(name)
    assert source.count(old) == 1, f"{name}.lua changed; the fault no longer fits"
    changed = {**load_scripts("now_ms_test"), name: make_script(name, source.replace(old, new), "now_ms_test")}
    check: Callable[[], None] = lambda: run_machine(server.url, 100, 40, changed, shrink=False)  # noqa: E731
    with pytest.raises(AssertionError):
        check()
