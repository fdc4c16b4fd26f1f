"""
A breadth-first search over the states of the real scripts, with a steered clock.

A state is the content of Redis and what the two instances believe. Two orders of operations that lead to the same
state are followed on once. Each step is one round trip: put the state into Redis, do the operation, look at
everything. After each step the invariants are checked; a violation names the path that led to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.harness import START_MS, request
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.keys import Keys
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.protocol.scripts import Script, load_scripts
from tracked_queue.settings import resolve
from tracked_queue.transport.endpoint import Endpoint
from tracked_queue.transport.store import checked
from tracked_queue.transport.sync_link import SyncLink

TTL, INTERVAL = 0.1, 0.06  # one passed deadline is no outage yet; two are, and lead into a hold
KEYS = Keys("x")
ENDED = ("succeeded", "failed", "cancelled", "dead")
OUTCOMES = ("succeeded", "retry", "interrupted", "parked")

LOAD = """
redis.call('FLUSHDB')
for i = 1, #ARGV, 2 do
  if string.sub(ARGV[i + 1], 1, 4) == 'set ' then
    redis.call('SADD', ARGV[i], unpack(cmsgpack.unpack(string.sub(ARGV[i + 1], 5))))
  else
    redis.call('RESTORE', ARGV[i], 0, ARGV[i + 1])
  end
end
"""
# Everything that the invariants need, and a dump of every key; of a set its members, since equal sets have many dumps. The lock's expiry, the counters and what is
# kept for people (histories, the last ends, recoveries) are no part of what the protocol decides.
LOOK = """
redis.call('DEL', '{x}:recovery_lock', '{x}:sweeper')
redis.call('DEL', '{x}:recoveries', unpack(redis.call('KEYS', '*:ends:*')))
local history = { 'events' }
for slot = 0, 31 do
  history[#history + 1] = 'event:' .. slot
end
for _, key in ipairs(redis.call('KEYS', '*:job:*')) do
  redis.call('HDEL', key, unpack(history))
end
local dump, records, lists, causes, keys = {}, {}, {}, {}, redis.call('KEYS', '*')
table.sort(keys)
for _, key in ipairs(keys) do
  if not string.find(key, ':stats:', 1, true) then
    dump[#dump + 1] = key
    local kind, members = redis.call('TYPE', key).ok, nil
    if kind == 'set' then
      members = redis.call('SMEMBERS', key)
      table.sort(members)
    end
    dump[#dump + 1] = members and 'set ' .. cmsgpack.pack(members) or redis.call('DUMP', key)
    if string.find(key, ':job:', 1, true) then
      records[#records + 1] = string.sub(key, 9)
      records[#records + 1] = redis.call('HGETALL', key)
    elseif string.find(key, ':instance:', 1, true) then
      causes[#causes + 1] = string.sub(key, 14)
      causes[#causes + 1] = redis.call('HGET', key, 'cause') or ''
    elseif kind == 'list' then
      lists[#lists + 1] = string.sub(key, 5)
      lists[#lists + 1] = redis.call('LRANGE', key, 0, -1)
    elseif kind == 'zset' then
      lists[#lists + 1] = string.sub(key, 5)
      lists[#lists + 1] = redis.call('ZRANGE', key, 0, -1)
    elseif members then
      lists[#lists + 1] = string.sub(key, 5)
      lists[#lists + 1] = members
    end
  end
end
return { dump, records, lists, redis.call('ZRANGE', '{x}:instances', 0, -1, 'WITHSCORES'),
  redis.call('GET', '{x}:clock'), redis.call('SMEMBERS', '{x}:parked'), keys, redis.call('SMEMBERS', '{x}:suspecting'), causes }
"""


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, problem: str) -> None:
    if not holds:
        raise Violation(problem)


@dataclass(frozen=True)
class Instance:
    """What one instance believes: its lease, its fetch number, what it holds, what it settled last."""

    lease: str
    number: int = 0
    holds: tuple[tuple[bytes, bytes], ...] = ()
    settled: tuple[bytes, bytes, str] | None = None
    starts: int = 1


@dataclass(frozen=True)
class State:
    data: tuple[bytes, ...]
    instances: tuple[Instance, ...]
    accepted: tuple[bytes, ...] = ()  # jobs for which a settle as succeeded was told 'ok'
    deadlines_passed: int = 0
    gone: tuple[str, ...] = ()  # jobs whose record has expired

    def changed(self, at: int, **fields: Any) -> State:
        instances = list(self.instances)
        instances[at] = replace(instances[at], **fields)
        return replace(self, instances=tuple(instances))


@dataclass(frozen=True)
class View:
    """What Redis held after a step."""

    data: tuple[bytes, ...]
    records: dict[bytes, dict[bytes, bytes]]
    lists: dict[bytes, list[bytes]]
    leases: dict[bytes, int]
    clock: int
    parked_tasks: frozenset[bytes]
    keys: tuple[bytes, ...]
    suspecting: frozenset[bytes]
    causes: dict[bytes, bytes]  # of the ends of leases

    @classmethod
    def of(cls, reply: Any) -> View:
        dump, records, lists, leases, clock, parked, keys, suspecting, causes = reply
        return cls(
            tuple(dump),
            {
                job: dict(zip(flat[::2], flat[1::2], strict=True))
                for job, flat in zip(records[::2], records[1::2], strict=True)
            },
            dict(zip(lists[::2], lists[1::2], strict=True)),
            {lease: int(float(score)) for lease, score in zip(leases[::2], leases[1::2], strict=True)},
            int(clock),
            frozenset(parked),
            tuple(keys),
            frozenset(suspecting),
            dict(zip(causes[::2], causes[1::2], strict=True)),
        )

    def alive(self, lease: str) -> bool:
        return self.leases.get(lease.encode(), 0) > self.clock


Judge = Callable[[State, View, Any, View], State]


def unchanged(state: State, *_: Any) -> State:
    return state


@dataclass(frozen=True)
class Operation:
    """A script call (or a plain command), and what its answer means for the instances' beliefs."""

    name: str
    call: t.Call[Any] | None
    judge: Judge = unchanged
    before: tuple[Any, ...] | None = None


@dataclass
class Explorer:
    """
    Explores with these scripts; `fault` replaces some of them. `known`: ids are enqueued with `known_for`, and the records of
    ended jobs expire.
    """

    server: RedisServer
    jobs: tuple[str, ...]
    fault: dict[str, Script] = field(default_factory=dict)
    known: bool = False
    states: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        url = f"unix://{self.server.folder / 's'}?db=9"
        self.link = SyncLink(Endpoint(resolve({"redis_url": url}, environ={})))
        self.scripts = {**load_scripts("now_ms_test"), **self.fault}
        self.load, self.look = (self._one(("SCRIPT", "LOAD", text)).decode() for text in (LOAD, LOOK))
        for script in self.scripts.values():
            self._one(("SCRIPT", "LOAD", script.text))
        self.views: dict[tuple[bytes, ...], View] = {}

    def close(self) -> None:
        self._one(("FLUSHDB",))
        self.link.close()

    def _one(self, *command: Any) -> Any:
        return checked(self.link.call(list(command))[0])

    def _eval(self, call: t.Call[Any]) -> tuple[Any, ...]:
        return ("EVALSHA", self.scripts[call.script].sha, 1, KEYS.tag, *call.args)

    def explore(self, depth: int, most_states: int = 10**9) -> None:
        """All paths of `depth` operations from two registered instances and no jobs."""
        self._one(("FLUSHDB",))
        self._one(("SET", KEYS.single("clock"), START_MS))
        for name in ("A", "B"):
            self._one(self._eval(t.register(name, TTL, INTERVAL, {"label": name})))
        view = View.of(self._one(("EVALSHA", self.look, 0)))
        self.views[view.data] = view
        start = State(view.data, (Instance("A"), Instance("B")))
        seen = {start}
        frontier: list[tuple[State, tuple[str, ...]]] = [(start, ())]
        for _ in range(depth):
            following = []
            for state, path in frontier:
                for operation in self._operations(state):
                    try:
                        after = self._step(state, operation)
                    except (Violation, KeyError, TypeError, ValueError) as error:
                        raise Violation(f"{' -> '.join((*path, operation.name))}: {error}") from error
                    if after not in seen:
                        seen.add(after)
                        following.append((after, (*path, operation.name)))
            frontier = following
            self.states = len(seen)
            if self.states > most_states:
                return

    def _step(self, state: State, operation: Operation) -> State:
        commands: list[Any] = [("EVALSHA", self.load, 0, *state.data)]
        if operation.before:
            commands.append(operation.before)
        if operation.call:
            commands.append(self._eval(operation.call))
        commands.append(("EVALSHA", self.look, 0))
        replies = [checked(reply) for reply in self.link.call(commands)]
        view, was = View.of(replies[-1]), self.views[state.data]
        answer = operation.call.read(replies[-2]) if operation.call else None
        self.steps += 1
        after = operation.judge(state, was, answer, view)
        check_invariants(tuple(job for job in self.jobs if job not in after.gone), was, view)
        self.views[view.data] = view
        return replace(after, data=view.data)

    # The operations

    def _operations(self, state: State) -> Iterator[Operation]:
        view = self.views[state.data]
        stored = sorted(job.decode() for job in view.records)
        for job in self.jobs:
            if job not in stored and job not in state.gone:
                yield self._enqueue(f"enqueue {job}", job, created=True)
                break  # which of two new jobs comes first makes no difference
        for job in state.gone:
            yield self._enqueue(f"resend {job}, which has expired", job, created=False)
        for job in stored:
            yield self._enqueue(f"resend {job}", job, created=False)
            if self.known and self._may_expire(job.encode(), view):
                gone = ("DEL", KEYS.named("job", job))
                yield Operation(f"{job} expires", None, _expired(job), before=gone)
            yield Operation(f"cancel {job}", t.cancel([job], 1.0))
        if state.deadlines_passed < 2:
            clock = ("INCRBY", KEYS.single("clock"), round(TTL * 1000) + 1)
            yield Operation("a deadline passes", None, _deadline_passed, before=clock)
        if view.parked_tasks:
            yield Operation("unpark", t.unpark("t", []))
        for at, instance in enumerate(state.instances):
            lease = instance.lease
            yield self._fetch(f"{lease} fetches", at, instance, instance.number + 1)
            if instance.number:
                yield self._fetch(f"{lease} fetches again", at, instance, instance.number)
            yield Operation(f"{lease} beats", t.heartbeat(lease, TTL, INTERVAL), _beaten(lease))
            yield Operation(f"{lease} is recovered", _recover(lease), _recovered(lease))
            if instance.starts > 1:
                former = lease[:-1]
                yield Operation(f"{former} is recovered", _recover(former), _recovered(former))
            yield Operation(f"{lease} is released", t.release(lease, t.End.DIED))
            if instance.starts < 2:
                yield self._come_back(at, instance)
            for held in instance.holds:
                for outcome in OUTCOMES:
                    yield self._settle(f"{lease} settles {held[0].decode()} {outcome}", at, instance, held, outcome)
            if instance.settled:
                id, delivery, outcome = instance.settled
                yield Operation(
                    f"{lease} settles {id.decode()} again", _outcome(lease, (id, delivery), outcome), _nothing_written
                )

    def _may_expire(self, job: bytes, view: View) -> bool:
        listed = any(job in ids for ids in view.lists.values())
        return view.records[job][b"state"] in (b"succeeded", b"cancelled") and not listed

    def _enqueue(self, name: str, job: str, created: bool) -> Operation:
        def judge(state: State, was: View, answer: list[bool], view: View) -> State:
            require(answer == [created], "a known id was recorded again, or a new one was not")
            require(created or was.data == view.data, "a resend wrote something")
            return state

        extras = encode_extras({"known": 3_600_000}) if self.known else b""
        return Operation(name, t.enqueue([request(job, extras=extras)]), judge)

    def _fetch(self, name: str, at: int, instance: Instance, number: int) -> Operation:
        def judge(state: State, was: View, answer: t.Fetched | t.Refusal, view: View) -> State:
            if not isinstance(answer, t.Fetched):
                return state.changed(at, number=number)
            again = number == instance.number
            require(again or was.alive(instance.lease) or not answer.jobs, "a lease past its deadline got jobs")
            for job in answer.jobs:
                record = view.records[job.id]
                owner = record[b"lease"] == instance.lease.encode() and record[b"delivery"] == job.delivery
                require(owner, "a fetch returned a job that its lease does not own")
            holds = dict(instance.holds) | {job.id: job.delivery for job in answer.jobs}
            return state.changed(at, number=number, holds=tuple(sorted(holds.items())))

        # It stands behind a marker: the marker is popped before.
        pop = ("ZPOPMIN", KEYS.named("wake", "q"))
        return Operation(name, t.fetch(instance.lease, number, 1, 1, ("q",)), judge, before=pop)

    def _come_back(self, at: int, instance: Instance) -> Operation:
        lease = f"{instance.lease}{instance.starts + 1}"

        def judge(state: State, was: View, answer: bool, view: View) -> State:
            # What its former self held it may still try to settle, under the new lease: the zombie.
            return state.changed(at, lease=lease, number=0, starts=instance.starts + 1)

        return Operation(
            f"{instance.lease} comes back", t.register(lease, TTL, INTERVAL, {"label": instance.lease}), judge
        )

    def _settle(self, name: str, at: int, instance: Instance, held: tuple[bytes, bytes], outcome: str) -> Operation:
        job, delivery = held

        def judge(state: State, was: View, answer: list[t.Verdict], view: View) -> State:
            record = was.records[job]
            listed = job in was.lists.get(b"processing:" + instance.lease.encode(), [])
            owner = listed and record[b"delivery"] == delivery and record[b"lease"] == instance.lease.encode()
            ok = answer == [t.Verdict.OK]
            require(ok is owner, f"{answer[0]} for {'the owner' if owner else 'a stranger'}")
            if not ok:
                require(was.data == view.data, "a refused settle wrote something")
            holds = tuple(item for item in instance.holds if item != held)
            after = state.changed(at, holds=holds, settled=(job, delivery, outcome))
            if ok and outcome == "succeeded":
                require(job not in state.accepted, "two deliveries settled one job")
                after = replace(after, accepted=(*state.accepted, job))
            return after

        return Operation(name, _outcome(instance.lease, held, outcome), judge)


def _outcome(lease: str, held: tuple[bytes, bytes], outcome: str) -> t.Call[Any]:
    return t.settle(lease, [t.Outcome(held[0], held[1], t.OutcomeKind(outcome), 0, b"", "")], 120)


def _recover(lease: str) -> t.Call[Any]:
    return t.recover(lease, owner="x", max_recoveries=3, lock_ttl=1, resend_window=120, interval=INTERVAL, n=1)


def _nothing_written(state: State, was: View, answer: Any, view: View) -> State:
    require(was.data == view.data, "the second run of a settle wrote something")
    return state


def _expired(job: str) -> Judge:
    return lambda state, *_: replace(state, gone=tuple(sorted((*state.gone, job))))


def _deadline_passed(state: State, *_: Any) -> State:
    return replace(state, deadlines_passed=state.deadlines_passed + 1)


def _beaten(lease: str) -> Judge:
    def judge(state: State, was: View, answer: t.Beat | None, view: View) -> State:
        held = bool(was.leases.get(lease.encode()))
        require((answer is not None) is held, "a revoked lease was extended, or a held one refused")
        return state

    return judge


def _recovered(lease: str) -> Judge:
    def judge(state: State, was: View, answer: t.Portion, view: View) -> State:
        if answer.word == "ok":
            require(lease.encode() in was.leases and not was.alive(lease), "a live lease's jobs were moved")
            require(not view.leases.get(lease.encode()), "jobs were moved from a lease that is not revoked")
            check_blame(was, view, lease.encode())
        elif answer.word not in ("alive", "hold"):
            require(was.data == view.data, f"recover answered {answer.word} and wrote something")
        return state

    return judge


def check_blame(was: View, view: View, lease: bytes) -> None:
    """Only a death that somebody saw says anything about jobs, and only the one job of a process is charged."""
    held = was.lists.get(b"processing:" + lease, [])
    died = was.causes.get(lease) == b"died"
    for job, record in view.records.items():
        before = was.records.get(job, {})
        changed = {name for name in (b"pool", b"past", b"charges", b"deaths") if before.get(name) != record.get(name)}
        if changed and (not died or job not in held):
            raise Violation(f"{job.decode()}: a recovery without evidence changed {sorted(changed)}")
        if b"charges" in changed and b"charges" in record and len(held) != 1:
            raise Violation(f"{job.decode()} was charged beside {len(held) - 1} others")


def check_invariants(jobs: tuple[str, ...], was: View, view: View) -> None:
    """Each job in exactly one place, none lost, ends that stay, no lease of the dead left behind, markers set."""
    for key in view.keys:
        kind, _, lease = key[4:].partition(b":")
        if kind in (b"processing", b"instance", b"cancel"):
            require(lease in view.leases, f"{key!r} belongs to a lease that is gone")
    owned = {key[11:]: ids for key, ids in view.lists.items() if key.startswith(b"processing:")}
    queue = view.lists.get(b"queue:q", [])
    parked = view.lists.get(b"parked:t", [])
    places = {
        "queued": queue + view.lists.get(b"suspected:q", []),
        "parked": parked,
        "scheduled": view.lists.get(b"scheduled", []),
        "dead": view.lists.get(b"dead", []),
        "active": [id for ids in owned.values() for id in ids],
    }
    for name in jobs:
        job = name.encode()
        counts = {place: ids.count(job) for place, ids in places.items()}
        record = view.records.get(job)
        if record is None:
            require(job not in was.records, f"{name} was lost")
            require(not any(counts.values()), f"{name} stands in {counts} without a record")
            continue
        state = record[b"state"].decode()
        before = was.records.get(job, {}).get(b"state", b"").decode()
        if before in ENDED:
            require(state == before, f"{name} ended {before} and became {state}")
        if state == "cancelled":
            # A cancelled id may still stand in a list, once, until it is dropped there.
            require(sum(counts.values()) <= 1 and not counts["active"], f"{name}: cancelled, in {counts}")
        elif state in ENDED and state != "dead":
            require(not any(counts.values()), f"{name}: {state}, in {counts}")
        else:
            require(counts == {place: int(place == state) for place in places}, f"{name}: {state}, in {counts}")
        if state == "active":
            require(job in owned.get(record[b"lease"], []), f"{name} is not in the list of its lease")
    suspects = view.lists.get(b"suspected:q", [])
    require((b"q" in view.suspecting) == bool(suspects), "the queues with suspects and their lines differ")
    if suspects:
        require(b"wake_suspects:q" in view.lists, "suspects wait and have no marker")
    for name in jobs:
        record = view.records.get(name.encode(), {})
        if record.get(b"state") == b"queued":
            require(
                (b"pool" in record) == (name.encode() in suspects),
                f"{name}: suspects stand in their line, others don't",
            )
    if queue:
        require(b"wake:q" in view.lists, "the queue holds a job and has no marker")
    require(bool(view.parked_tasks) is bool(parked), "parked jobs and the index of parked tasks differ")
