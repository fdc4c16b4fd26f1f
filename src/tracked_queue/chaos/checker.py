"""What must hold of a chaos run's history, whatever was done to it; pure functions over the ledger and the last look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec

from ..protocol.states import State
from .ledger import Event

FINAL = frozenset(state.value for state in State if state.ended)
ENDS = FINAL - {"expired"}  # what an outcome of a run can be
# The task whose jobs kill their process; no other job may be dead for that reason.
POISON = "poison"
BLAMED = "its process died"
# Kinds of faults that may set the store back to an earlier state: writes that it had acknowledged are gone.
ROLLBACKS = frozenset({"failover", "late_failover", "redis_restart_everysec"})
# A job that a server gave out just before it was lost may begin this much later; the server that took over knows nothing of it.
GIVEN_OUT_NS = 2 * 10**9
# A fault is noted before it hits its process, which may begin a run in the meantime.
NOTED_NS = 10**9
# How long a job may wait after the last fault, besides a lease's time: for a lease that has to run out, a process that
# restarts, the suspects of the last fault, and those before it in line.
WAIT_S = 18.0
# Jobs under suspicion take turns: for each process that died meanwhile one of them may wait this much longer.
TURN_S = 3.0
# A call may take this much longer than its limit: a last look at a record, and a machine that is busy with faults.
LATE_S = 2.0
# Keys without an expiry that may be there when nothing is queued, runs or waits.
LASTING = frozenset(
    {
        "clock",
        "queues",
        "protocol",
        "shards",
        "limits",
        "contact",
        "hold",
        "schedules",
        "schedule",
        "dead",
        "job",
        "wake",
        "paused",
        "wake_timer",
        "wake_suspects",
        "timer",
        "recoveries",
        "acts",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """
    One run.

    Args:
        events: The ledgers of all processes, in the order of time.
        records: What Redis says of each job in the end: the fields of its record, its limits as JSON.
        places: For each job the lists that it stands in, in the end.
        keys: Names of the keys without an expiry in the end, without the namespace.
        recovered: How often the workers' logs say that a job was recovered.
        ttl_s: Of a lease.
        slow: Calls of scripts that took more than 5 ms after the last fault.
    """

    events: Sequence[Event]
    records: Mapping[str, Mapping[str, str]]
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keys: Sequence[str] = ()
    recovered: Mapping[str, int] = field(default_factory=dict)
    ttl_s: float = 2.0
    slow: int = 0


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What the checker found; `problems` is empty when the promise held."""

    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    runs: int = 0
    recovered: int = 0
    fenced: int = 0
    slow: int = 0
    taken_back: int = 0
    again: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)


def judge(history: History) -> Judgement:
    """Every check of one history."""
    found = Judgement()
    by_job: dict[str, list[Event]] = defaultdict(list)
    for event in history.events:
        if event.id:
            by_job[event.id].append(event)
        elif event.kind == "fault":
            found.faults[event.word] += 1
    rollbacks = [event.at for event in history.events if event.kind == "fault" and event.word in ROLLBACKS]
    for job, events in by_job.items():
        _judge_job(job, events, history, rollbacks, found)
    found.problems += list(_wrong_calls(history.events))
    found.recovered = sum(count > 0 for count in history.recovered.values())
    found.problems += [f"{job} stands in several places: {', '.join(places)}" for job, places in _doubled(history)]
    found.problems += [f"key left behind: {key}" for key in _left_behind(history.keys)]
    found.problems += _limits_exceeded(history, by_job, rollbacks)
    found.problems += _rates_exceeded(history, by_job)
    found.problems += _keys_shared(by_job, rollbacks)
    found.slow = history.slow
    for job, waited, deaths in _waits(history, by_job):
        found.waited_s.append(waited)
        if waited > WAIT_S + history.ttl_s + TURN_S * deaths:
            found.problems.append(f"{job} waited {waited:.1f} s though nothing held it up")
    found.waited_s.sort()
    found.recovery_s = sorted(_recovery_times(history.events, by_job))
    return found


def _judge_job(job: str, events: list[Event], history: History, rollbacks: Sequence[int], found: Judgement) -> None:
    record = history.records.get(job, {})
    state = record.get("state", "")
    words = [event.word for event in events if event.kind == "stored"]
    if words and words[-1] != "held":
        found.jobs += 1
        found.taken_back += words.count("created") > 1
        found.states[state or "no record"] += 1
    if words and words[-1] != "held" and state not in FINAL:
        found.lost.append(job)
        found.problems.append(f"{job} was stored and is {state or 'gone'} in the end")
    if record.get("reason", "").startswith(BLAMED) and record.get("task") != POISON:
        found.problems.append(f"{job} is dead for a process that it did not kill: {record['reason']}")
    starts = [event for event in events if event.kind == "start"]
    found.runs += len(starts)
    found.problems += _twice_delivered(job, starts, rollbacks)
    settled = [event for event in events if event.kind == "settled"]
    found.fenced += sum(event.verdict == "fenced" for event in settled)
    counted = Counter(event.word for event in settled if event.verdict == "ok")
    # An outcome whose answer was lost gets `again` the next time.
    told = Counter(
        word for word, _ in {(event.word, event.fence) for event in settled if event.verdict in ("ok", "again")}
    )
    since = starts[0].at if starts else 0
    rolled_back = sum(at > since - GIVEN_OUT_NS for at in rollbacks)
    ended = sum(count for word, count in counted.items() if word in ENDS)
    if ended > 1 + rolled_back:
        found.problems.append(f"{job} has {ended} settled ends")
    last = [event.word for event in settled if event.verdict == "ok" and event.word in ENDS]
    if last and not rolled_back and state in FINAL and last[-1] != state and state != "cancelled":
        found.problems.append(f"{job} was settled as {last[-1]} and is {state}")
    if len(starts) > 1:
        _explain(job, len(starts) - 1, record, counted | told, history.recovered.get(job, 0), rolled_back, found)


def _twice_delivered(job: str, starts: Sequence[Event], rollbacks: Sequence[int]) -> Iterator[str]:
    """
    A delivery ran twice.

    A server that lost its last writes, and whose clock is behind, gives a number out once more.
    """
    by_fence: dict[int, list[Event]] = defaultdict(list)
    for start in starts:
        by_fence[start.fence].append(start)
    for fence, runs in by_fence.items():
        for first, second in pairwise(runs):
            lost = any(first.at - GIVEN_OUT_NS < at < second.at for at in rollbacks)
            if not lost:
                yield f"{job}: delivery {fence} ran twice"


def _explain(
    job: str, extra: int, record: Mapping[str, str], counted: Counter[str], recovered: int, rolled_back: int,
    found: Judgement,
) -> None:  # fmt: skip
    """Each run after the first has a cause that somebody recorded."""

    def number(name: str) -> int:
        return int(record.get(name) or 0)

    causes = {
        "retry": max(counted["retry"], number("attempts")),
        "snooze": max(counted["snoozed"], number("snoozes")),
        "recovery or interruption": max(
            counted["interrupted"] + recovered, number("interruptions") + number("recoveries")
        ),
        "rollback": rolled_back,
    }
    for cause, count in causes.items():
        taken = min(extra, count)
        if taken:
            found.again[cause] += taken
        extra -= taken
    if extra:
        found.again["unexplained"] += extra
        found.problems.append(f"{job} has {extra} runs without a recorded cause; its record: {dict(record)}")


def _wrong_calls(events: Sequence[Event]) -> Iterator[str]:
    """Public calls that took longer than they may, results that are another job's, and programs that did not end."""
    for event in events:
        if event.limit and event.seconds > event.limit + LATE_S:
            yield f"{event.id}: a call of kind {event.kind} took {event.seconds:.1f} s, its limit is {event.limit:g} s"
        if event.kind == "answer" and event.word == "wrong":
            yield f"{event.id} was given the result of another job"
        if event.kind == "stuck":
            yield f"{event.word} did not end in its time"


def _left_behind(keys: Sequence[str]) -> Iterator[str]:
    """
    An instance that could not deregister in its time (the server is slow) leaves its lease to run out; but it owns nothing.
    """
    owners = {key.partition(":")[2] for key in keys if key.startswith("processing:")}
    for key in keys:
        kind, _, name = key.partition(":")
        if kind not in LASTING and not (kind == "instances" or (kind == "instance" and name not in owners)):
            yield key


def _doubled(history: History) -> Iterator[tuple[str, Sequence[str]]]:
    for job, places in history.places.items():
        state = history.records.get(job, {}).get("state", "")
        wrong = state in FINAL - {"dead"} and places
        if len(places) > 1 or wrong:
            yield job, places


def _runs(by_job: Mapping[str, list[Event]], events: Sequence[Event], rollbacks: Sequence[int]) -> Iterator[
    tuple[str, int, int]
]:  # fmt: skip
    """(job, start, end) of each run, as far as its lease was certainly alive and the server knew of it."""
    stopped: dict[int, list[int]] = defaultdict(list)
    for event in events:
        if event.kind == "fault" and event.pid:
            stopped[event.pid].append(event.at)
    for job, history in by_job.items():
        starts = [event for event in history if event.kind == "start"]
        ends = {event.fence: event.at for event in history if event.kind == "end"}
        for at, start in enumerate(starts):
            bounds = [when for when in rollbacks if when >= start.at]
            bounds += [max(when, start.at) for when in stopped[start.pid] if when >= start.at - NOTED_NS]
            if start.fence in ends:
                bounds.append(ends[start.fence])
            if at + 1 < len(starts):
                bounds.append(starts[at + 1].at)
            if bounds and not any(0 <= start.at - lost < GIVEN_OUT_NS for lost in rollbacks):
                yield job, start.at, min(bounds)


def _limits_exceeded(history: History, by_job: Mapping[str, list[Event]], rollbacks: Sequence[int]) -> list[str]:
    steps: dict[str, list[tuple[int, int]]] = defaultdict(list)
    numbers: dict[str, int] = {}
    for job, start, end in _runs(by_job, history.events, rollbacks):
        for name, kind, number, *_ in limits_of_record(history.records.get(job, {})):
            if kind == "concurrency" and end > start:
                numbers[name] = max(number, numbers.get(name, 0))  # a deploy may have changed it
                steps[name] += [(start, 1), (end, -1)]
    problems = []
    for name, changes in steps.items():
        running = most = 0
        for _, change in sorted(changes):
            running += change
            most = max(most, running)
        if most > numbers[name]:
            problems.append(f"limit {name}: {most} ran at once, {numbers[name]} may")
    return problems


def _rates_exceeded(history: History, by_job: Mapping[str, list[Event]]) -> Iterator[str]:
    """
    More jobs of a rate began over the whole run than it allows in that time.

    Only the server knows when each job was given out, so no shorter span is judged. A server that lost its last writes,
    or whose clock went back, gives out the same starts again.
    """
    starts: dict[str, list[int]] = defaultdict(list)
    rates: dict[str, tuple[int, int]] = {}
    for job, events in by_job.items():
        for name, kind, number, per_ms, *_ in limits_of_record(history.records.get(job, {})):
            if kind == "rate":
                rates[name] = number, per_ms
                starts[name] += [event.at for event in events if event.kind == "start"]
    faults = [event for event in history.events if event.kind == "fault" and event.word in (*ROLLBACKS, "clock")]
    again_s = sum(0 if event.word == "clock" else event.seconds for event in faults)
    for name, times in starts.items():
        number, per_ms = rates[name]
        if times:
            windows = ((max(times) - min(times)) / 1e9 + again_s) * 1000 / per_ms + 1 + 2 * len(faults)
            if len(times) > number * windows:
                yield f"rate {name}: {len(times)} began, {number * windows:.0f} may in that time"


def limits_of_record(record: Mapping[str, str]) -> list[list[Any]]:
    """The limits that a record names, which the harness has made JSON: lists of name, kind, number and so on."""
    return msgspec.json.decode(record["limits"], type=list[list[Any]]) if record.get("limits") else []


def _keys_shared(by_job: Mapping[str, list[Event]], rollbacks: Sequence[int]) -> list[str]:
    """A job was created while another one of its unique key had not even returned from its last run."""
    spans: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for job, events in by_job.items():
        created = [event for event in events if event.kind == "stored" and event.word == "created" and event.key]
        # Of the last delivery: an earlier one that was frozen meanwhile ends late, and owns nothing any more.
        last = max((event.fence for event in events if event.kind == "start"), default=0)
        ends = [event.at for event in events if event.kind == "end" and event.fence == last]
        if created and ends:
            spans[created[0].key].append((created[0].at, ends[-1], job))
    problems = []
    for key, jobs in spans.items():
        jobs.sort()
        for (_, end, first), (begin, _, second) in pairwise(jobs):
            if begin < end and not any(begin - 10**10 < at < end for at in rollbacks):
                problems.append(f"key {key}: {second} was created while {first} was at work")
    return problems


def _waits(history: History, by_job: Mapping[str, list[Event]]) -> Iterator[tuple[str, float, int]]:
    """
    How long each job waited for its last run, counted from the start of the calm; for a job under suspicion, also how
    many processes died meanwhile. Poison is left out, since it runs alone.
    """
    calm = next((event.at for event in history.events if event.kind == "calm"), None)
    deaths = [event.at for event in history.events if event.kind == "fault" and event.word == POISON]
    for job, events in by_job.items():
        record = history.records.get(job, {})
        starts = [event.at for event in events if event.kind == "start"]
        if calm is not None and starts and starts[-1] > calm and record.get("task") != POISON:
            ahead = sum(calm < at < starts[-1] for at in deaths) if record.get("deaths") else 0
            yield job, (starts[-1] - calm) / 1e9, ahead


def _recovery_times(events: Sequence[Event], by_job: Mapping[str, list[Event]]) -> Iterator[float]:
    """From the death of a process until each of its jobs ran again."""
    deaths = {event.pid: event.at for event in events if event.kind == "fault" and event.word in ("kill", "vanish")}
    for history in by_job.values():
        starts = [event for event in history if event.kind == "start"]
        ended = {event.fence for event in history if event.kind == "end"}
        for before, after in pairwise(starts):
            died = deaths.get(before.pid)
            if died is not None and before.fence not in ended and before.at <= died <= after.at:
                yield (after.at - died) / 1e9
