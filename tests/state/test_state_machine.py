"""
Random histories of the real scripts with everything a team uses, against a small model of what must hold after each step.

Hypothesis chooses the steps and shrinks a failing history to a short one, which it prints and replays.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
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

from tests.harness import INTERVAL, TTL, Scripts, request
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.events import read_events
from tracked_queue.protocol.request import Request
from tracked_queue.protocol.scripts import Script, load_scripts, make_script, read_source

FINAL = {"succeeded", "failed", "cancelled", "expired", "dead"}
LIMITS = {"one": 1, "two": 2}
RATE, RATE_MS = 2, 700
QUEUES = ("q", "low")
UNSERVED = "x"  # its jobs share limits with the others, and nobody fetches from there
LEASES = ("w1", "w2")
LONG_MS = 10**12  # since a run began, if its worker is to be believed
_number = itertools.count()


class Machine(RuleBasedStateMachine):
    """One shard, two instances, two queues, two limits, a rate, two unique keys, a schedule."""

    url = ""
    changed: dict[str, Script] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.q = Scripts(self.url, f"m{os.getpid()}-{next(_number)}", self.changed)
        self.jobs: list[str] = []
        self.requests: dict[str, Request] = {}
        self.unique: dict[str, tuple[str, str]] = {}
        self.limits: dict[str, tuple[str, ...]] = {}
        self.after: dict[str, tuple[list[str], str]] = {}
        self.wants: dict[str, int] = {}
        self.held: list[tuple[str, t.FetchedJob]] = []
        self.settled: set[tuple[bytes, bytes]] = set()
        self.expiring: set[str] = set()
        self.known: dict[str, tuple[Any, Any]] = {}  # those with `known_for`: what was sent, and the answer
        self.starts: list[int] = []
        self.last_tick, self.last_tick_job = 0, ""
        self.numbers = dict(LIMITS)  # of the limits, as the code that started last has them
        self.most_ever = dict(LIMITS)

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
        queue=st.sampled_from([*QUEUES, UNSERVED]),
        key=st.sampled_from([None, "k1", "k2"]),
        until=st.sampled_from(["started", "done"]),
        conflict=st.sampled_from(["existing", "replace"]),
        bound=st.sampled_from([None, 600]),
        limits=st.sampled_from([(), ("one",), ("two",), ("one", "two"), ("rate",), ("rate", "one")]),
        turn=st.sampled_from([None, "a", "b"]),
        delay=st.sampled_from([0, 0, 500]),
        expires=st.sampled_from([None, None, 800]),
        known=st.sampled_from([False, False, True]),
        after=st.integers(0, 3),
        on_failure=st.sampled_from(["fail", "ignore", "fallback"]),
        data=st.data(),
    )
    def enqueue(
        self, queue: str, key: str | None, until: str, conflict: str, bound: int | None, limits: tuple[str, ...], turn: str | None,
        delay: int, expires: int | None, known: bool, after: int, on_failure: str, data: st.DataObject,
    ) -> None:  # fmt: skip
        job = f"j{len(self.jobs)}" if not known else f"k{len(self.known)}-{len(self.jobs)}"
        extras: dict[str, Any] = {"known": 3_600_000} if known else {}
        if key is not None:
            extras["unique"] = [key, until, conflict, 0, *([bound] if bound and conflict == "replace" else [])]
        if limits or turn:
            extras["lane"] = f"{queue}\n{'|'.join(limits)}:{turn}"
        if limits:
            extras["limits"] = [_limit(name) for name in limits]
        if expires is not None:
            extras["expires"] = f"+{expires}"
        stored = [other for other in self.jobs if self.q.state(other)]
        before = data.draw(st.lists(st.sampled_from(stored), max_size=after, unique=True)) if stored and after else []
        rest = before[1:] if data.draw(st.booleans()) else []
        if before:
            extras["after"], extras["on_failure"] = before[: len(before) - len(rest)], on_failure
            extras["wants"] = data.draw(st.integers(0, len(before) - len(rest)))
            if rest:
                extras["more_after"] = len(rest)
        packed = msgspec.msgpack.encode(extras) if extras else b""
        made = request(job, queue=queue, extras=packed, delay_ms=delay or None)
        (answer,) = self.q.store.run(t.enqueue([made]))
        if known:
            self.known[job] = (made, answer)
        holder = self._holder(key) if key is not None else None
        if isinstance(answer, t.Conflict):
            assert answer.word in ("held", "replaced") and holder == answer.id, "a key was held by nobody, or another"
            if answer.word == "replaced":
                self.is_as_the_new_one(answer.id, limits)
                record = self.q.job(answer.id)
                if bound and delay and record.get("state") == "scheduled":
                    assert int(record["due_ms"]) <= int(record["queued_ms"]) + bound, "a debounce goes on for ever"
            return
        assert answer is True
        for at, other in enumerate(rest, 1):
            word = self.q.store.run(t.follow(job, at, at % 2, [other], last=at == len(rest)))
            assert word is t.FollowWord.OK
            assert self.q.store.run(t.follow(job, at, 1, [other], last=True)) is t.FollowWord.AGAIN
        self.jobs.append(job)
        self.requests[job], self.limits[job] = made, limits
        if key is not None:
            assert holder in (None, job), "two jobs hold one key"
            self.unique[job] = (key, until)
        if before:
            self.after[job] = (before, on_failure)
        if expires is not None:
            self.expiring.add(job)

    @rule(key=st.sampled_from(["k1", "k2"]), data=st.data())
    def a_debounce_goes_on(self, key: str, data: st.DataObject) -> None:
        """Enqueued again and again before it is due: its bound is checked each time."""
        for _ in range(3):
            self.enqueue(QUEUES[0], key, "started", "replace", 600, (), None, 500, None, False, 0, "fail", data)
            self.q.pass_time(0.25)

    def is_as_the_new_one(self, job: str, limits: tuple[str, ...]) -> None:
        """A replaced job has the new one's limits, but in its queue's own list, where a worker has to bind it first."""
        record = self.q.job(job)
        assert not (int(record.get("attempts", 0)) or int(record.get("snoozes", 0))), "what has begun was replaced"
        self.limits[job] = limits if "limits" in record else ()

    @rule(
        n=st.sampled_from([2, 3, 4, 24]),
        limits=st.sampled_from([("one",), ("two",), ("one", "two"), ("rate",), ("rate", "two")]),
        lanes=st.sampled_from([1, 2, 24]),
        queue=st.sampled_from([*QUEUES, UNSERVED]),
    )
    def a_burst_of_limited_jobs(self, n: int, limits: tuple[str, ...], lanes: int, queue: str) -> None:
        for at in range(n):
            job = f"j{len(self.jobs)}"
            packed = msgspec.msgpack.encode(
                {"lane": f"{queue}\n{'|'.join(limits)}:{at % lanes}", "limits": [_limit(name) for name in limits]}
            )
            self.requests[job], self.limits[job] = request(job, queue=queue, extras=packed), limits
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [True]
            self.jobs.append(job)

    @rule(
        lease=st.sampled_from(LEASES),
        on_failure=st.sampled_from(["fail", "fail", "ignore"]),
        wants=st.integers(0, 2),
        late=st.booleans(),
    )
    def a_family_whose_head_dies(self, lease: str, on_failure: str, wants: int, late: bool) -> None:
        """
        Two heads, one after both, one after that: what a workflow is made of, with the end that can be taken back. The second
        head may run on, with one more that comes late.
        """
        heads = [f"j{len(self.jobs) + at}" for at in range(2)]
        after_both, last = (f"j{len(self.jobs) + at}" for at in (2, 3))
        lanes = {"lane": "q\n:family"}
        extras = [
            lanes,
            lanes,
            {"after": heads, "on_failure": on_failure, "wants": wants},
            {"after": [after_both], "on_failure": "fail"},
        ]
        for job, more in zip((*heads, after_both, last), extras, strict=True):
            self.requests[job], self.limits[job] = request(job, extras=msgspec.msgpack.encode(more)), ()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [True]
            self.jobs.append(job)
        self.after[after_both], self.after[last] = (heads, on_failure), ([after_both], "fail")
        self.fetch_all(lease)
        self.wants[after_both] = wants
        for at, (owner, held) in enumerate([item for item in self.held if item[1].id.decode() in heads]):
            if at == 1 and late:
                continue
            if self.q.settle(owner, held, "dead" if at == 0 else "succeeded", 1) is t.Verdict.OK:
                self.settled.add((held.id, held.delivery))
            self.held.remove((owner, held))
        if late:
            job = f"j{len(self.jobs)}"
            extras_of_it = msgspec.msgpack.encode({"after": heads, "on_failure": on_failure, "wants": wants})
            self.requests[job], self.limits[job] = request(job, extras=extras_of_it), ()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [True]
            self.jobs.append(job)
            self.after[job], self.wants[job] = (heads, on_failure), wants

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from(["retry", "snoozed"]), delay=st.sampled_from([0, 500]))
    def a_debounced_one_between_two_runs(self, data: st.DataObject, outcome: str, delay: int) -> None:
        """It holds its key on; a replace of it then is refused."""
        keyed = [(lease, job) for lease, job in self.held if self.unique.get(job.id.decode(), ("", ""))[1] == "done"]
        if not keyed:
            return
        lease, job = data.draw(st.sampled_from(keyed))
        name = job.id.decode()
        self.held.remove((lease, job))
        cancelled = "cancel" in self.q.job(name)
        if self.q.settle(lease, job, outcome, 200) is t.Verdict.OK:
            self.settled.add((job.id, job.delivery))
            if not cancelled:
                extras = msgspec.msgpack.encode({"unique": [self.unique[name][0], "done", "replace", 0]})
                made = request(f"r{name}", extras=extras, delay_ms=delay or None)
                assert self.q.store.run(t.enqueue([made])) == [t.Conflict("held", name)]

    @rule(one=st.booleans())
    def dead_ones_are_requeued(self, one: bool) -> None:
        dead = [job for job in self.jobs if self.q.state(job) == "dead"][: 1 if one else None]
        for job, word in zip(dead, self.q.store.run(t.requeue(dead)) if dead else [], strict=True):
            if word == "ok":
                self.settled = {item for item in self.settled if item[0] != job.encode()}

    @rule()
    def a_beat_tends(self) -> None:
        while self.q.store.run(t.tend()):
            pass

    @rule(lease=st.sampled_from(LEASES))
    def fetch_all(self, lease: str) -> None:
        self.fetch(lease, 10, 0, list(QUEUES))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if self.q.state(job):
            before = self.q.snapshot()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [False]
            assert self.q.snapshot() == before

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def resend_a_known_one(self, data: st.DataObject) -> None:
        """It is answered as the first time, also when its record has expired: a key that was held then is not asked again."""
        job = data.draw(st.sampled_from(sorted(self.known)))
        made, first = self.known[job]
        record, kept = self.q.keys.named("job", job), None
        ended = self.q.state(job) in FINAL - {"dead"} and self.q.redis.pttl(record) > 0
        if ended:
            kept = self.q.redis.dump(record)
            self.q.redis.delete(record)
        before = self.q.snapshot()
        (answer,) = self.q.store.run(t.enqueue([made]))
        if isinstance(first, t.Conflict):
            assert answer == first
        else:
            assert answer is False
        assert self.q.snapshot() == before
        if kept is not None:
            self.q.redis.restore(record, 120_000, kept)

    @rule(
        lease=st.sampled_from(LEASES),
        start=st.integers(1, 3),
        buffer=st.integers(0, 2),
        queues=st.permutations(QUEUES),
        mode=st.sampled_from([t.Mode.FIRST, t.Mode.FIRST, *t.Mode]),
        stood=st.sampled_from(["", "wake", "wake_suspects", "wake_timer"]),
    )
    def fetch(
        self, lease: str, start: int, buffer: int, queues: list[str], mode: t.Mode = t.Mode.FIRST, stood: str = ""
    ) -> None:
        """It may have stood behind a marker, which is popped then; a process for suspects stands behind theirs only."""
        if mode in (t.Mode.ONLY, t.Mode.SHORT):
            stood = "wake_suspects"
        if stood == "wake_timer":
            self.q.redis.zpopmin(self.q.keys.single(stood))
        elif stood:
            for queue in queues:
                if self.q.redis.zpopmin(self.q.keys.named(stood, queue)):
                    break
        held, tests = self.q.redis.hmget(self.q.keys.named("instance", lease), "held", "tests")
        # What a clock a day ahead said is over.
        held_until = int(held or 0) if int(tests or 0) < self.q.now() + 60_000 else 0
        here = self.q.listed("processing", lease)
        reply = self.q.fetch(lease, start=start, buffer=buffer, queues=tuple(queues), mode=mode)
        if isinstance(reply, t.Fetched):
            assert len(reply.jobs) <= start + buffer
            has_place = sum(job.buffered == b"0" for job in reply.jobs) < start
            assert reply.next_due is None or has_place, "who is full has the timer"
            self.keeps_company(lease, reply, mode, held_until, here)
            self.hold(lease, reply.jobs)

    def keeps_company(self, lease: str, reply: t.Fetched, mode: t.Mode, held_until: int, here: list[str]) -> None:
        """Suspects come in groups that each of their pools allows, and nothing joins one that is within its gate."""
        records = [self.q.job(job.id.decode()) for job in reply.jobs]
        suspects = [record for record in records if "pool" in record]
        assert not reply.jobs or held_until <= self.q.now(), "something joined suspects within their gates"
        assert len(suspects) in (0, len(records)), "suspects and fresh jobs came together"
        assert mode not in (t.Mode.ONLY, t.Mode.SHORT) or suspects == records, "a process for suspects got a fresh job"
        assert not reply.limited or (reply.suspects and not suspects), "suspects came, and were said to wait for limits"
        if suspects:
            assert mode is not t.Mode.NONE and len(suspects) <= min(int(record["pool"]) for record in suspects)
            assert all(job.buffered == b"0" for job in reply.jobs)
            fresh = [id for id in here if "pool" not in self.q.job(id)]
            assert not fresh, "suspects joined fresh jobs"
            gates = [2 * int(record.get("past", 0)) + 1000 for record in suspects if int(record["deaths"]) < 12]
            assert reply.held * 1000 >= max(gates, default=0)

    def suspects_stand_in_their_line(self, view: dict[str, Any], states: dict[str, str]) -> None:
        lines = {job for key, ids in view.items() if key.startswith("suspected:") for job in ids}
        for job, state in states.items():
            if state == "queued":
                assert ("pool" in view[f"job:{job}"]) == (job in lines), (job, view[f"job:{job}"])
        with_line = {key.partition(":")[2] for key in view if key.startswith("suspected:")}
        assert with_line == set(view.get("suspecting", ())), "an instance would not see them"
        for queue in with_line:
            paused = f"queue:{queue}" in view.get("paused", ())
            assert (f"wake_suspects:{queue}" in view) != paused, "nobody would be woken for them"

    def hold(self, lease: str, jobs: list[t.FetchedJob]) -> None:
        """Note what an instance got. What has a rate starts no more often than it says, retries included."""
        now = self.q.now()
        self.held += [(lease, job) for job in jobs]
        self.starts += [now for job in jobs if "rate" in self.limits.get(job.id.decode(), ())]
        for first, later in zip(self.starts, self.starts[RATE:], strict=False):
            assert later - first >= RATE_MS, (self.starts, "more starts than the rate allows")

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
        ran_ms = None if outcome in ("succeeded", "unstarted", "parked") else LONG_MS
        verdict = self.q.settle(lease, job, outcome, 200 if outcome in ("retry", "snoozed") else 1, ran_ms=ran_ms)
        assert (verdict is t.Verdict.OK) is owns, f"{verdict} for {'the owner' if owns else 'a stranger'}"
        self.no_run_began_before_its_delivery(job)
        if owns:
            assert (job.id, job.delivery) not in self.settled, "one delivery settled twice"
            self.settled.add((job.id, job.delivery))
        if twice:
            before = self.q.snapshot()
            assert self.q.settle(lease, job, outcome, 200) in (t.Verdict.AGAIN, t.Verdict.FENCED)
            assert self.q.snapshot() == before
        self.held.remove((lease, job))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), what=st.sampled_from(["bind", "progress", "checkpoint", "log"]))
    def its_worker_says(self, data: st.DataObject, what: str) -> None:
        lease, job = data.draw(st.sampled_from(self.held))
        if what == "bind":
            self.bind(lease, job)
        else:
            self.note(lease, job, what)

    def bind(self, lease: str, job: t.FetchedJob) -> None:
        """The worker puts limits on a job that came without them, before it runs."""
        name = job.id.decode()
        if not job.bound and self.unique.get(name) is None and self.q.job(name).get("lease") == lease:
            owned = self.q.job(name).get("delivery") == job.delivery.decode() and self.q.state(name) == "active"
            cancelled = "cancel" in self.q.job(name)
            bounds = msgspec.msgpack.encode({"lane": "q\none", "limits": [_limit("one")]})
            verdict = self.q.settle(lease, job, "bound", payload=bounds)
            assert (verdict is t.Verdict.OK) is owned
            if owned:
                self.settled.add((job.id, job.delivery))
                if not cancelled:
                    self.limits[name] = ("one",)
            self.held.remove((lease, job))

    def note(self, lease: str, job: t.FetchedJob, kind: str) -> None:
        """Only the delivery that owns a job stores anything."""
        record = self.q.job(job.id.decode())
        owns = (record.get("delivery"), record.get("lease"), record.get("state")) == (
            job.delivery.decode(), lease, "active",
        )  # fmt: skip
        before = self.q.snapshot()
        word = self.q.store.run(t.note(lease, job.id, job.delivery, kind, b"\x01"))
        assert (word is t.NoteWord.OK) is owns
        assert owns or self.q.snapshot() == before

    @rule(step=st.integers(-1, 2), mode=st.sampled_from(["store", "coalesce", "pass"]), paused=st.booleans())
    def tick(self, step: int, mode: str, paused: bool) -> None:
        """Any instance may say that a tick is due: there is one job of it, in order, and none while its schedule is paused."""
        at = max(1, self.last_tick + step)
        job, last = f"cron{at}", self.last_tick_job
        self.q.store.run(t.pause("schedule:s") if paused else t.resume("schedule:s"))
        waits = bool(last) and self.q.state(last) == "queued"
        made = request(job, extras=msgspec.msgpack.encode({"tick": ["s", at, mode]}))
        known = bool(self.q.state(job))
        (answer,) = self.q.store.run(t.enqueue([made]))
        if known:
            assert answer is False
            return
        stores = at > self.last_tick and mode != "pass" and not paused and not (mode == "coalesce" and waits)
        assert answer == (True if stores else t.Conflict("held", last))
        self.last_tick = max(self.last_tick, at)
        if stores:
            self.last_tick_job = job
            self.jobs.append(job)
            self.requests[job], self.limits[job] = made, ()

    # One rule for many rare things, so that they don't crowd out the everyday ones.
    @rule(
        what=st.sampled_from(["crash", "crash", "interrupted", "silence", "outage"]),
        lease=st.sampled_from(LEASES),
        portion=st.integers(1, 3),
    )
    def trouble(self, what: str, lease: str, portion: int) -> None:
        if what == "silence":
            self.falls_silent(lease, portion)
        elif what == "outage":
            self.nobody_can_beat(TTL + portion)
        else:
            self.crash(lease, portion, what == "interrupted")

    def falls_silent(self, lease: str, portion: int) -> None:
        """An instance doesn't beat while the other one does: its lease runs out, and its jobs are taken from it."""
        other = next(name for name in LEASES if name != lease)
        self.notes_its_starts(lease)
        for _ in range(int(TTL / INTERVAL) + 1):
            assert self.q.recover(lease, n=portion).word in ("alive", "hold")
            self.q.pass_time(INTERVAL)
            assert self.q.beat(other) is not None
        while self.q.recover(lease, n=portion).word in ("ok", "hold"):
            self.q.pass_time(INTERVAL)
            assert self.q.beat(other) is not None
        assert self.q.recover(lease).word == "gone"
        assert self.q.beat(lease) is None, "a revoked lease came back"
        assert self.q.fetch(lease) is t.Refusal.LOST
        self.q.numbers[lease] = 0
        self.q.register(lease)

    def notes_its_starts(self, lease: str) -> None:
        held = [job for owner, job in self.held if owner == lease]
        assert self.q.beat(lease, [(job.id, job.delivery, LONG_MS) for job in held]) is not None
        for job in held:
            self.no_run_began_before_its_delivery(job)

    def no_run_began_before_its_delivery(self, job: t.FetchedJob) -> None:
        """Each says that it has run for longer than it can have."""
        record = self.q.redis.hgetall(self.q.keys.record_of(job.id.decode()))
        delivery, _, noted_ms = record.get(b"started", b"0 0").partition(b" ")
        assert int(noted_ms) >= int(delivery), record
        for event in read_events(record):
            assert not event.started_ms or event.started_ms >= int(event.delivery), event

    def nobody_can_beat(self, seconds: float) -> None:
        """An outage: when it is over nobody may be called dead before all had the time to beat."""
        self.q.pass_time(seconds)
        for lease in LEASES:
            portion = self.q.recover(lease)
            assert portion.word == "hold" and portion.wait > 0
        for lease in LEASES:
            assert self.q.beat(lease) is not None

    def crash(self, lease: str, portion: int, interrupted: bool) -> None:
        """The instance dies, is recovered in portions, and comes back; what its former self held it may still settle."""
        self.q.release(lease, t.End.INTERRUPTED if interrupted else t.End.DIED)
        # A person may have moved some by name before.
        named = sorted(self.q.listed("processing", lease))[: portion - 1]
        if named:
            moved = self.q.recover(lease, ids=named)
            assert moved.word == "ok" and {job.id for job in moved.jobs} == set(named)
        while self.q.recover(lease, n=portion).word == "ok":
            pass
        self.q.numbers[lease] = 0
        self.q.register(lease)

    @rule(lease=st.sampled_from(LEASES), n=st.sampled_from([2, 5, 9]), seconds=st.sampled_from([0.0, 0.5]))
    def a_death_among_many(self, lease: str, n: int, seconds: float) -> None:
        """And what the next process gets of those that were there."""
        for _ in range(n):
            job = f"j{len(self.jobs)}"
            self.requests[job], self.limits[job] = request(job), ()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [True]
            self.jobs.append(job)
        self.fetch_all(lease)
        self.time_passes(seconds)
        self.crash(lease, 3, interrupted=False)
        self.fetch_all(lease)

    @rule(lease=st.sampled_from(LEASES), name=st.sampled_from(list(LIMITS)), number=st.integers(1, 3))
    def a_deploy_changes_a_limit(self, lease: str, name: str, number: int) -> None:
        assert self.q.store.run(t.register(lease, TTL, INTERVAL, {}, {name: number}))
        self.numbers[name], self.most_ever[name] = number, max(number, self.most_ever[name])

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0, 86_400.0]))
    def the_clock_goes_back(self, seconds: float) -> None:
        """A failover to a server whose clock is behind."""
        self.q.pass_time(-seconds)
        self.starts.clear()
        for lease in LEASES:
            assert self.q.beat(lease) is not None

    @rule(lease=st.sampled_from(LEASES), n=st.integers(1, 2), ahead=st.booleans())
    def one_lies_in_time(self, lease: str, n: int, ahead: bool) -> None:
        """Stored while the clock was a day ahead, perhaps; who fetches then is full."""
        if ahead:
            self.the_clock_goes_back(-86_400.0)
        for delay in (500, *(None for _ in range(n))):
            job = f"j{len(self.jobs)}"
            self.requests[job], self.limits[job] = request(job, delay_ms=delay), ()
            assert self.q.store.run(t.enqueue([self.requests[job]])) == [True]
            self.jobs.append(job)
        if ahead:
            self.the_clock_goes_back(86_400.0)
        self.fetch(lease, n, 0, list(QUEUES))

    @rule(lease=st.sampled_from(LEASES), on=st.booleans())
    def an_instance_goes_quiet(self, lease: str, on: bool) -> None:
        self.q.store.run(t.quiet(lease, on))

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

    @rule(what=st.sampled_from(["queue:q", "task:t", "unpark"]), on=st.booleans())
    def pause(self, what: str, on: bool) -> None:
        if what == "unpark":
            self.q.store.run(t.unpark("t", []))
        else:
            self.q.store.run(t.pause(what) if on else t.resume(what))

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

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), queue=st.sampled_from(QUEUES))
    def move(self, data: st.DataObject, queue: str) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        was = self.q.job(job)
        (word,) = self.q.store.run(t.move([job], queue))
        assert word in {"": ("gone",), "active": ("started",)}.get(
            was.get("state", ""),
            ("ended",) if was.get("state") in FINAL - {"dead"} else ("ok", "same", "limited", "suspect"),
        )
        if word == "ok":
            self.requests[job] = msgspec.structs.replace(self.requests[job], queue=queue)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), ms=st.sampled_from([0, 400, 3000]))
    def reschedule(self, data: st.DataObject, ms: int) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        was = self.q.state(job)
        (word,) = self.q.store.run(t.reschedule([job], delay_ms=ms))
        assert word == ("gone" if not was else "ok" if was == "scheduled" else "not_scheduled")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        was = self.q.state(job)
        (word,) = self.q.store.run(t.delete([job], 120.0))
        may_be = (
            ("ok", "wanted", "not_ended") if was in FINAL - {"dead"} else ("dead",) if was == "dead" else ("not_ended",)
        )
        assert word in (may_be if was else ("gone",))

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
        self.suspects_stand_in_their_line(view, states)
        self.permits_are_those_of_active_jobs_and_never_too_many(view, states)
        self.a_lane_that_holds_jobs_stands_in_one_place(view)
        self.a_closed_group_is_full_or_has_its_time(view)
        self.whatever_is_takeable_has_its_marker(view)
        self.what_lies_in_time_has_one_owner(view)
        self.one_open_job_holds_a_unique_key(view)
        self.waiting_jobs_have_something_to_wait_for(view, states)
        self.results_are_held_for_those_who_want_them(view, states)
        self.what_failed_for_a_dead_job_can_come_back(view, states)

    def _holder(self, key: str) -> str | None:
        raw = self.q.redis.get(self.q.keys.named("unique", key))
        if raw is None:
            return None
        record = self.q.job(raw.decode())
        return raw.decode() if record.get("unique") == key and record.get("state") not in (*FINAL, None) else None

    def each_job_is_in_one_place(self, view: dict[str, Any], states: dict[str, str]) -> None:
        places: dict[str, list[str]] = {}
        where = {"queue": "queued", "suspected": "queued", "lane": "queued", "processing": "active", "parked": "parked"}
        where |= {"scheduled": "scheduled", "dead": "dead"}
        for key, ids in view.items():
            kind, colon, _ = key.partition(":")
            if kind in where and not (kind == "parked" and not colon):
                for job in ids:
                    places.setdefault(job, []).append(where[kind])
        for job, state in states.items():
            found = places.get(job, [])
            assert (job in view.get("dependents", ())) == (state == "waiting"), (job, state)
            if state == "cancelled":
                assert len(found) <= 1 and "active" not in found, (job, found)
            elif state in ("succeeded", "failed", "expired", "waiting"):
                assert not found, (job, state, found)
            else:
                assert found == [state], (job, state, found)

    def permits_are_those_of_active_jobs_and_never_too_many(self, view: dict[str, Any], states: dict[str, str]) -> None:
        for name, most in self.most_ever.items():
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
            places += [lane in view.get(f"waiting:{name}\n{queue}", ()) for name in (*LIMITS, "rate")]
            assert sum(places) == 1, (lane, places)
            counts[queue] = counts.get(queue, 0) + len(ids)
            assert view[f"laned:{queue}"][lane] == str(len(ids))
        assert {queue: int(count) for queue, count in view.get("laned", {}).items()} == counts

    def a_closed_group_is_full_or_has_its_time(self, view: dict[str, Any]) -> None:
        """A group of lanes that wait for a limit is open or closed, and nobody forgets a closed one."""
        for name in (*LIMITS, "rate"):
            groups = {key.partition("\n")[2] for key in view if key.startswith(f"waiting:{name}\n")}
            closed = set(view.get(f"waits:{name}", ()))
            opened = {queue for queue in (*QUEUES, UNSERVED) if name in view.get(f"open:{queue}", ())}
            assert not closed & opened and closed | opened == groups, (name, groups, closed, opened)
            assert (f"about:{name}" in view) == bool(groups)
            if closed and not {name, f"\x01{name}"} & set(view.get("opens", ())):  # itself, or that it was raised
                full = name != "rate" and len(view.get(f"permits:{name}", ())) >= self.numbers[name]
                assert full, f"nobody would offer {name}"
        assert len(view.get("rate:rate", ())) <= RATE

    def whatever_is_takeable_has_its_marker(self, view: dict[str, Any]) -> None:
        for queue in (*QUEUES, UNSERVED):
            takeable = any(f"{kind}:{queue}" in view for kind in ("queue", "lanes", "open"))
            paused = f"queue:{queue}" in view.get("paused", ())
            assert not takeable or paused or f"wake:{queue}" in view, f"nobody would be woken for {queue}"

    def what_lies_in_time_has_one_owner(self, view: dict[str, Any]) -> None:
        times = [
            self.q.redis.zrange(self.q.keys.single(kind), 0, 0, withscores=True) for kind in ("scheduled", "opens")
        ]
        first = min((int(found[0][1]) for found in times if found), default=None)
        if "ended" in view:
            first = self.q.now()
        at = self.q.redis.hget(self.q.keys.single("timer"), "at")
        assert first is None or "wake_timer" in view or (at is not None and int(at) <= first), (first, at)

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
            if states[job] == "waiting" or int(view.get(f"job:{job}", {}).get("revives", 0)):
                for other in before:
                    to_come = other in told or states[other] in ("", *FINAL)
                    assert to_come or job in view.get(f"followers:{other}", ()), f"nobody would tell {job} of {other}"

    def results_are_held_for_those_who_want_them(self, view: dict[str, Any], states: dict[str, str]) -> None:
        wanted = [other for key, ids in view.items() if key.startswith("after:") for other in ids]
        for job in self.jobs:
            record = view.get(f"job:{job}")
            if record is not None:
                assert int(record.get("holds", 0)) == wanted.count(job), (job, record, wanted)
            elif job in wanted:
                raise AssertionError(f"the result of {job} is wanted, and gone")
        for job, wants in self.wants.items():
            may_run = states[job] not in (*FINAL, "") or states[job] == "dead"
            if may_run or (int(view.get(f"job:{job}", {}).get("revives", 0)) and states[job] == "failed"):
                assert len(view.get(f"after:{job}", ())) == wants, (job, states[job], wants)

    def what_failed_for_a_dead_job_can_come_back(self, view: dict[str, Any], states: dict[str, str]) -> None:
        """Each that was told of a dead job's end is noted with it; a job told twice, or not at all, has wrong counts."""
        if view.get("ended"):
            return  # not all were told yet
        for job, (before, on_failure) in self.after.items():
            record = view.get(f"job:{job}", {})
            if on_failure == "fail" and states[job] in ("queued", "scheduled", "active"):
                ends = [states[other] for other in before]
                assert not any(state in FINAL - {"succeeded"} for state in ends), ("it runs after a failure", job, ends)
            if states[job] != "waiting" and not (states[job] == "failed" and int(record.get("revives", 0))):
                continue
            ends = [states[other] for other in before]
            failed = sum(state in FINAL - {"succeeded"} for state in ends)
            assert int(record["waits"]) == sum(state not in FINAL for state in ends), (job, record, ends)
            assert int(record["failed"]) == failed, (job, record, ends)
            assert states[job] == "waiting" or (failed and on_failure == "fail"), (job, record, ends)

    def everything_ends(self) -> None:
        """
        Two healthy instances that fetch only when they are woken: every job of theirs comes to an end, whatever waits in a queue
        that nobody serves. No permit, lane or follower is stuck.
        """
        for what in ("queue:q", "task:t"):
            self.q.store.run(t.resume(what))
        self.q.store.run(t.unpark("t", []))
        for lease in LEASES:
            self.q.store.run(t.quiet(lease, False))
            for lease_held, held in self.held:
                if lease_held == lease:
                    self.q.settle(lease, held, "succeeded")
        calls_at: dict[str, float] = {}
        for turn in range(1500):
            if not self.open_jobs():
                break
            woken = [self.is_woken(lease, calls_at) for lease in LEASES]
            if not any(woken):
                self.time_passes(0.1 if turn < 500 else 1.0)
                for lease in LEASES:
                    beat = self.q.beat(lease)
                    while beat is not None and beat.tend and self.q.store.run(t.tend()):
                        pass
        else:
            places = {key: value for key, value in self.look().items() if not key.startswith("job:")}
            never = {
                job: self.q.job(job) for name in self.open_jobs() for job in (name, *self.after.get(name, ([], ""))[0])
            }
            raise AssertionError(f"these never end: {never}; at {self.q.now()} there are {places}")
        self.empty_the_unserved_queue()
        dead = [job for job in self.jobs if self.q.state(job) == "dead"]
        self.q.store.run(t.purge(dead))
        while self.q.store.run(t.tend()):
            pass
        for kind in (
            "permits",
            "lane",
            "lanes",
            "waiting:",
            "waits:",
            "open",
            "about",
            "waited",
            "followers",
            "laned",
            "told",
            "after",
            "dependents",
        ):
            left = list(self.q.redis.scan_iter(match=self.q.keys.tag.replace("{", "[{]") + f":{kind}*", count=1000))
            assert not left, f"left behind: {left}; there are {self.look()}"
        for key in ("k1", "k2"):
            assert self.q.redis.get(self.q.keys.named("unique", key)) is None

    def open_jobs(self) -> list[str]:
        """Those that an instance could bring to an end: not what waits in the queue that nobody serves, or for that."""
        found = []
        for job in self.jobs:
            record = self.q.job(job)
            if record.get("state", "") in (*FINAL, "") or record["queue"] == UNSERVED:
                continue
            if record["state"] == "waiting" and any(map(self.waits_for_the_unserved, self.after[job][0])):
                continue
            found.append(job)
        return found

    def waits_for_the_unserved(self, job: str) -> bool:
        record = self.q.job(job)
        if record.get("state", "") in (*FINAL, ""):
            return False
        return record["queue"] == UNSERVED or any(map(self.waits_for_the_unserved, self.after.get(job, ([], ""))[0]))

    def is_woken(self, lease: str, calls_at: dict[str, float]) -> bool:
        """An instance that stands: a marker of its own wakes it, or its timer; what it gets succeeds."""
        kinds = ["wake", "wake_suspects"] if calls_at.get(f"{lease} suspects", 0) <= self.q.now() else ["wake"]
        markers = [self.q.keys.named(kind, queue) for kind in kinds for queue in QUEUES]
        woken = any(self.q.redis.zpopmin(marker) for marker in [*markers, self.q.keys.single("wake_timer")])
        if not woken and not calls_at.get(lease, 1e18) <= self.q.now():
            return False
        more = True
        while more:
            reply = self.q.fetch(lease, start=5, queues=QUEUES)
            assert isinstance(reply, t.Fetched), reply
            calls_at[lease] = 1e18 if reply.next_due is None else self.q.now() + reply.next_due * 1000
            if reply.suspects:  # what could not be taken is asked for once a second
                calls_at[f"{lease} suspects"] = self.q.now() + 1000
            self.hold(lease, reply.jobs)
            for job in reply.jobs:
                assert self.q.settle(lease, job, "succeeded") is t.Verdict.OK
            more = bool(reply.jobs) and reply.more
        return True

    def empty_the_unserved_queue(self) -> None:
        """With an instance that serves it all is left as if nothing had been."""
        for _ in range(300):
            self.time_passes(1.0)
            self.q.store.run(t.unpark("t", []))
            for job in self.q.take("w1", start=50, queues=(*QUEUES, UNSERVED)):
                assert self.q.settle("w1", job, "succeeded") is t.Verdict.OK
            listed = self.q.redis.exists(self.q.keys.single("laned"), self.q.keys.single("ended"))
            if not listed and {self.q.state(job) for job in self.jobs} <= {*FINAL, ""}:
                return
        raise AssertionError(f"these never end: {[(job, self.q.job(job)) for job in self.jobs]}")


def _limit(name: str) -> list[Any]:
    if name == "rate":
        return [name, "rate", RATE, RATE_MS, len(name)]
    return [name, "concurrency", LIMITS[name], 0, len(name)]


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


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Its own: every step looks at all keys of the server."""
    running = RedisServer()
    yield running
    running.close()


@pytest.mark.timeout(900)
def test_random_histories_keep_every_promise(server: RedisServer) -> None:
    run_machine(server.url, int(os.environ.get("STATE_EXAMPLES", "60")), int(os.environ.get("STATE_STEPS", "40")))


FAULTS: dict[str, tuple[str, str, str]] = {
    "settle keeps the permit": ("settle", "free_permits(id, ties.limits)  -- whatever", "-- whatever"),
    "recover keeps the permit": ("recover", "    free_permits(id, ties.limits)\n", ""),
    "settle offers no place": ("settle", "offer_freed(now, paused)\nif #leaves", "if #leaves"),
    "fetch forgets the starts of a rate": ("fetch", "redis.call('LPUSH', named('rate', name), unpack(starts))", ""),
    "fetch forgets when a rate opens": ("fetch", "or now, starts, now)", "or now, nil, now)"),
    "who is full keeps the timer": ("fetch", "has_place and started < may_start and", "has_place and"),
    "a new earlier time calls nobody": ("enqueue", "  call_timer(timer_at)\n", ""),
    "a tick is taken twice": ("enqueue", "if tick[2] <= last.ms then", "if tick[2] < last.ms then"),
    "notes are not fenced": ("note", "if found[1] ~= 'active' or found[2] ~= lease or found[3] ~= delivery then", "if false then"),
    "there is no hold after an outage": ("recover", "if found then", "if false then"),
    "fetch counts no permits": ("fetch", "      count_permits(limits)\n", ""),
    "enqueue ignores the key": ("enqueue", "if holder and holder ~= id then", "if false then"),
    "fetch forgets a blocked lane": ("fetch", "    join(lane.full, lane.queue, lane.lane, now)\n", ""),
    "an empty group is not forgotten": ("fetch", "      forget_group(name, queue)\n", ""),
    "followers are not told of a failure": ("fetch", "state == 'succeeded' and 0 or 1", "0"),
    "a dead job forgets whom it told": ("fetch", "        push(before, entries)\n", ""),
    "a result is let go too early": ("fetch", "if is_final and not revives then\n      local wanted", "if is_final then\n      local wanted"),
    "a requeue brings nothing back": ("requeue", "redis.call('RPUSH', single('ended'), id)", ""),
    "suspects are joined at once": ("fetch", "local wants_fresh = has_place and held_ms == 0", "local wants_fresh = has_place"),
    "a group is as large as there is room": ("fetch", "size + 1 > math.min(smallest, pool)", "false"),
    "a late one is told of nothing": ("enqueue", "    else\n      back.open = {}\n", "    end\n    if state ~= 'waiting' then\n      back.open = {}\n"),
    "delays of a clock ahead are trusted": ("heartbeat", "redis.call('HSET', single('timer'), 'rewind', '+inf 0')", ""),
    "a debounce has no bound": ("enqueue", "extras.unique[5]\n  if due_ms and bound_ms then", "extras.unique[5]\n  if false then"),
    "a beat trusts how long a run has lasted": ("heartbeat", "start_of_run(found[2], number_of(ARGV[at + 2]), now)", "now - ARGV[at + 2]"),
    "an outcome trusts how long its run lasted": ("settle", "start_of_run(string.sub(settled, 2), ran_ms, now)", "now - ran_ms"),
    "the last portion is forgotten": ("follow", "note_ends(follower, #back.open - (is_last and 1 or 0)", "note_ends(follower, #back.open"),
}  # fmt: skip


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_a_fault_put_into_a_script(server: RedisServer, fault: str) -> None:
    name, old, new = FAULTS[fault]
    scripts, source = load_scripts("now_ms_test"), read_source(name)
    if source.count(old) == 1:
        broken = make_script(name, source.replace(old, new), "now_ms_test")
    else:  # in one of its includes, which it has without comments
        text = scripts[name].text
        assert text.count(old) == 1, f"{name}.lua changed; the fault no longer fits"
        text = text.replace(old, new)
        broken = Script(name, text, hashlib.sha1(text.encode()).hexdigest())
    changed = {**scripts, name: broken}
    check: Callable[[], None] = lambda: run_machine(server.url, 400, 60, changed, shrink=False)  # noqa: E731
    with pytest.raises(AssertionError):
        check()
