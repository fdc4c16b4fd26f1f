"""
The protocol in Python: one function per Lua script, which lays out its arguments and reads its reply.

No I/O happens here: a `Call` is carried out by a store, asynchronous or not. Every reply word is matched; a word
that isn't in a script's header is an InvariantError. Seconds become milliseconds here and nowhere below.
Source: lua/<name>.lua, whose headers are the contract; docs/reference/scripts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from ..errors import InvariantError, NamespaceMismatchError
from .packing import encode_extras
from .request import Request
from .states import State
from .text import to_bytes, to_text
from .version import NEWEST, WRITES, misfit

T = TypeVar("T")

MAX_BATCH = 250
# For calls that touch more than a record and a list: no script takes over 5 ms in a quiet hour (make bench-growth).
MAX_RICH = 70
MAX_BYTES = 1024 * 1024


class Call(msgspec.Struct, Generic[T], frozen=True):
    """One call of one script: KEYS[1] is the tag, `args` are ARGV, `read` turns the reply into a value."""

    script: str
    args: Sequence[Any]
    read: Callable[[Any], T]

    def value(self, reply: Any) -> T:
        """The reply as a value. Raises InvariantError for one that the script's header doesn't list."""
        try:
            return self.read(reply)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise _unknown(self.script, reply) from None


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _unknown(script: str, word: Any) -> InvariantError:
    return InvariantError(f"{script}.lua answered {repr(word)[:200]}, which its header doesn't list")


def _words(script: str, known: Mapping[bytes, T]) -> Callable[[Any], list[T]]:
    def read(reply: Any) -> list[T]:
        try:
            return [known[word] for word in reply]
        except (KeyError, TypeError):
            raise _unknown(script, reply) from None

    return read


def _word(script: str, known: Mapping[bytes, T]) -> Callable[[Any], T]:
    def read(reply: Any) -> T:
        try:
            return known[reply[0]]
        except (KeyError, TypeError, IndexError):
            raise _unknown(script, reply) from None

    return read


# shards


def layout(was: str, wanted: str) -> Call[str]:
    """Set the number of shards where it is as said (`was`, or '' for none yet); what it is now."""
    return Call("layout", [was, wanted], lambda reply: to_text(reply[0]))


def close(what: str) -> Call[str]:
    """Close an empty shard (`close`), look whether it is empty (`look`), or `open` it; what is not empty, or ''."""
    return Call("close", [what], lambda reply: "" if reply[0] == b"ok" else to_text(reply[1]))


@dataclass(frozen=True, slots=True)
class Agreed:
    """The protocol of a shard, and what keeps a program from working with it: see lua/protocol.lua."""

    word: ProtocolWord
    number: int
    lease: str = ""
    version: str = ""


class ProtocolWord(StrEnum):
    """How the protocol of a shard fits a program's."""

    OK = "ok"
    ABOVE = "above"
    BELOW = "below"
    BEHIND = "behind"


def protocol(oldest: int, newest: int, writes: int, what: Literal["look", "raise"]) -> Call[Agreed]:
    """Whether a program that reads `oldest` to `newest` can work in a shard; `raise` makes its protocol at least `writes`."""
    return Call("protocol", [oldest, newest, writes, what], _read_protocol)


def _read_protocol(reply: Any) -> Agreed:
    word, number, *about = map(to_text, reply)
    return Agreed(ProtocolWord(word), int(number), *about)


def _refuse_closed(reply: Any) -> None:
    if reply[:1] == [b"closed"]:
        raise NamespaceMismatchError(
            "its namespace was given another number of shards; start this program with the same `shards` as the others"
        )


# enqueue


class ConflictWord(StrEnum):
    """Why a job was not stored: its key is held, it replaced the holder, it comes after an unknown job, or its id is taken."""

    HELD = "held"
    REPLACED = "replaced"
    UNKNOWN = "unknown"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A job that was not stored: why, and the id of the other job (of a taken id: the task that has it)."""

    word: ConflictWord
    id: str


Stored = bool | Conflict


def enqueue(requests: Sequence[Request]) -> Call[list[Stored]]:
    """Store a batch (at most MAX_BATCH); per job True if it was created, False for an id that exists, or a Conflict."""
    args: list[Any] = []
    for request in requests:
        args += (request.id, request.task, request.queue, request.args, _more_of(request))
    return Call("enqueue", args, _read_enqueue)


def _packed(one: str, two: str, first: bytes, second: bytes, third: bytes = b"") -> bytes:
    """Five values as one argument; lua/include/packed.lua reads it."""
    return f"{one} {two} {len(first)} {len(second)} ".encode() + first + second + third


def _more_of(request: Request) -> bytes:
    due = "-"
    if request.due_ms is not None:
        due = str(request.due_ms)
    elif request.delay_ms:
        due = f"+{request.delay_ms}"
    elif request.tracked and not request.kwargs and not request.options and not request.extras:
        return b""
    return _packed("1" if request.tracked else "0", due, request.kwargs, request.options, request.extras)


_STORED = {b"created": True, b"exists": False}
_CONFLICTS = {word.value.encode(): word for word in ConflictWord}


def _read_enqueue(reply: Any) -> list[Stored]:
    stored: list[Stored] = []
    _refuse_closed(reply)
    for item in reply:
        if isinstance(item, list) and item[0] in _CONFLICTS:
            stored.append(Conflict(_CONFLICTS[item[0]], to_text(item[1])))
        elif isinstance(item, bytes) and item in _STORED:
            stored.append(_STORED[item])
        else:
            raise _unknown("enqueue", item)
    return stored


@dataclass(frozen=True, slots=True)
class Ticks:
    """The server's time, and per schedule its last tick."""

    now_ms: int
    last_ms: tuple[int, ...]


def schedule(about: Sequence[tuple[str, str, str, str]]) -> Call[Ticks]:
    """Report schedules (name, task, queue, rule), and get their last ticks."""
    return Call("schedule", [part for item in about for part in item], _read_schedule)


def _read_schedule(reply: Any) -> Ticks:
    return Ticks(int(reply[0]), tuple(map(int, reply[1:])))


class FollowWord(StrEnum):
    """Whether further jobs that one comes after were noted; `again`: they had been, or it is complete or has ended."""

    OK = "ok"
    AGAIN = "again"


def follow(job_id: str, first: int, wants: int, ids: Sequence[str], *, last: bool) -> Call[FollowWord | Conflict]:
    """
    Name further jobs (at most MAX_BATCH) that a stored one comes after; a Conflict for one that is unknown.

    Args:
        first: How many were named before.
        wants: It wants the results of the first `wants` of these.
        last: Whether these are all that were left.
    """
    return Call("follow", [job_id, first, wants, "1" if last else "0", *ids], _read_follow)


def _read_follow(reply: Any) -> FollowWord | Conflict:
    match reply:
        case [b"unknown", missing]:
            return Conflict(ConflictWord.UNKNOWN, to_text(missing))
        case [(b"ok" | b"again") as word]:
            return FollowWord(to_text(word))
    raise _unknown("follow", reply)


# leases


def register(
    lease: str, ttl: float, interval: float, about: Mapping[str, str], limits: Mapping[str, int] | None = None
) -> Call[bool]:
    """
    Open a lease with the instance's description, and the numbers of the limits it knows; False if it was revoked.

    Reading the reply raises NamespaceMismatchError if the shard was closed, or written in a newer protocol, meanwhile.
    """
    pairs = [part for item in about.items() for part in item]
    packed = encode_extras(dict(limits)) if limits else b""
    return Call("register", [lease, _ms(ttl), _ms(interval), packed, NEWEST, WRITES, *pairs], _read_register)


def _read_register(reply: Any) -> bool:
    _refuse_closed(reply)
    if reply[:1] == [b"above"]:
        raise NamespaceMismatchError(misfit("its namespace", int(reply[1])))
    return _READ_REGISTER(reply)


_READ_REGISTER = _word("register", {b"ok": True, b"lost": False})


@dataclass(frozen=True, slots=True)
class Beat:
    """
    What a beat brought: whether to stay quiet, whether a sweep is worth it, what to cancel, what is parked, whether
    this instance is to do what is due, and which queues have suspects.
    """

    quiet: bool
    run_out: bool
    cancels: tuple[str, ...]
    parked: tuple[str, ...]
    tend: bool = False
    suspecting: tuple[str, ...] = ()


class BeatFacts(NamedTuple):
    """
    What a beat carries: starts of jobs that had waited in the instance (id, delivery, ms ago; at most 50), and counters with
    the number of their portion (field, count; at most 100).
    """

    number: int
    starts: Sequence[tuple[bytes, bytes, int]]
    counters: Sequence[tuple[str, int]]


def heartbeat(lease: str, ttl: float, interval: float, facts: BeatFacts | None = None) -> Call[Beat | None]:
    """Extend a lease; None if it is lost."""
    args: list[Any] = [lease, _ms(ttl), _ms(interval)]
    if facts is not None and (facts.starts or facts.counters):
        args += (facts.number if facts.counters else 0, len(facts.starts))
        args += [value for start in facts.starts for value in start]
        args += [to_bytes(value) if isinstance(value, str) else value for pair in facts.counters for value in pair]
    return Call("heartbeat", args, _read_beat)


def _read_beat(reply: Any) -> Beat | None:
    match reply:
        case [b"lost"]:
            return None
        case [b"ok", quiet, run_out, cancels, parked, tend, suspecting]:
            return Beat(
                quiet == b"1",
                run_out == b"1",
                tuple(map(to_text, cancels)),
                tuple(map(to_text, parked)),
                tend == b"1",
                tuple(map(to_text, suspecting)),
            )
    raise _unknown("heartbeat", reply)


class End(StrEnum):
    """
    What is known of the end of an instance: its process died; so did others beside it that had jobs of their own; or it
    was ended on purpose, for which no job is to blame.
    """

    DIED = "died"
    CONTAINER = "container"
    INTERRUPTED = "interrupted"


def release(lease: str, end: End, *, ago: float | None = None, beside: int = 0, proven: bool = True) -> Call[bool]:
    """
    Revoke a lease; True if jobs are left for recovery, False if it is gone or dropped.

    Args:
        ago: Seconds since its end was seen; None if nobody saw it.
        beside: Jobs that its process had in other shards.
        proven: Without proof the end is only noted, and counts if the lease runs out.
    """
    ago_ms = "" if ago is None else round(ago * 1000)
    return Call("release", [lease, end.value, ago_ms, beside, "1" if proven else "0"], _READ_RELEASE)


_READ_RELEASE = _word("release", {b"dropped": False, b"revoked": True, b"noted": False, b"gone": False})


class InstanceFacts(NamedTuple):
    """One instance as it is stored: lease, deadline (ms; 0: revoked), how many jobs it owns, and the fields asked for."""

    lease: bytes
    deadline: float
    owned: int
    fields: list[bytes | None]


def instances(names: Sequence[str], first: int = 0, n: int = MAX_BATCH) -> Call[list[InstanceFacts]]:
    """Up to n instances from this place on, by their deadlines, with these fields of each."""
    return Call("instances", [first, n, *names], _read_instances)


def _read_instances(reply: Any) -> list[InstanceFacts]:
    return [
        InstanceFacts(lease, float(deadline), owned, fields)
        for lease, deadline, owned, fields in zip(reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
    ]


def quiet(lease: str, on: bool) -> Call[bool]:
    """Stop (or start) an instance's fetching; False if there is no such live lease."""
    return Call("quiet", [lease, "1" if on else "0"], _READ_QUIET)


_READ_QUIET = _word("quiet", {b"ok": True, b"gone": False})


def owned(lease: str) -> Call[list[tuple[str, str]]]:
    """(id, delivery) of what stands in the instance's processing list."""
    return Call(
        "owned", [lease], lambda reply: [(to_text(a), to_text(b)) for a, b in zip(reply[::2], reply[1::2], strict=True)]
    )


# fetch


class Refusal(StrEnum):
    """Why a fetch took nothing."""

    STALE = "stale"
    QUIET = "quiet"
    LATE = "late"
    LOST = "lost"


class FetchedJob(msgspec.Struct, gc=False):
    """One job as a fetch hands it over; `delivery` is b"0" for an untracked one, which needs no settling."""

    id: bytes
    delivery: bytes
    buffered: bytes
    queue: bytes
    waited_ms: int = -1  # since its enqueue, or since it was due; -1 if something else had come before
    task_name: bytes | None = None  # as it is stored; None for a record that has none
    args: bytes = b""  # encoded positional arguments
    kwargs: bytes = b""  # encoded named arguments
    options: bytes = b""  # encoded options of the job's own
    attempts: int = 0  # runs before this delivery that failed by themselves
    interruptions: int = 0  # deliveries before this one that were handed back by a shutdown or an outage
    recoveries: int = 0  # deliveries before this one whose instance was lost
    checkpoint: bytes = b""  # what an earlier run stored, encoded
    bound: bool = False  # its task's unique key and limits were put on its record
    trace: bytes = b""  # traceparent of the delivery before, where that was traced

    @property
    def task(self) -> str:
        """The task's name as text."""
        return to_text(self.task_name or b"")


def count_of(raw: bytes | None) -> int:
    """A ledger of a record; 0 for none, and for what something else wrote there."""
    try:
        return int(raw or 0)
    except ValueError:
        return 0


class Fetched(msgspec.Struct, frozen=True):
    """
    The jobs of one fetch, and what to do next.

    `more`: another fetch would bring some. `next_due`: seconds until this instance is to fetch timed jobs (None:
    another instance does). `must_start`: some of what is left must not wait in an instance. `held`: for how many
    seconds another fetch would bring nothing, unless the instance becomes empty before. `suspects`: some are in its
    queues, or among these jobs; `limited`: those in the queues wait for limits.
    """

    jobs: list[FetchedJob]
    more: bool
    next_due: float | None
    buried: tuple[str, ...]
    must_start: bool = False
    held: float = 0.0
    suspects: bool = False
    limited: bool = False


class Mode(StrEnum):
    """Which suspects a fetch may bring; see lua/fetch.lua."""

    NONE = "none"
    FIRST = "first"
    IDLE = "idle"
    ONLY = "only"
    SHORT = "short"


def fetch(
    lease: str,
    number: int,
    start: int,
    buffer: int,
    queues: Sequence[str],
    max_bytes: int = MAX_BYTES,
    most: Mapping[str, int] | None = None,
    *,
    mode: Mode = Mode.FIRST,
) -> Call[Fetched | Refusal]:
    """Take up to `start` jobs that start now and `buffer` that wait (together at most MAX_BATCH), `most` of a queue."""
    args: list[Any] = [lease, number, start, buffer, max_bytes, mode.value]
    for queue in queues:
        args += (queue, "" if not most or queue not in most else most[queue])
    return Call("fetch", args, _read_fetch)


_REFUSALS = {refusal.value.encode(): refusal for refusal in Refusal}


# Length of a record's list for a plain job that was never delivered, and for any other job; see lua/fetch.lua.
_PLAIN, _WHOLE = 4, 14


def _fetched(job_id: bytes, delivery: bytes, buffered: bytes, queue: bytes, record: list[Any], now: int) -> FetchedJob:
    whole = record + [None] * (_WHOLE - len(record))
    since, _, task_name, args, kwargs, options, _, attempts, interruptions, recoveries, _, checkpoint, bound, trace = (
        whole
    )
    return FetchedJob(
        job_id,
        delivery,
        buffered,
        queue,
        now - queued if (queued := count_of(since)) > 0 else -1,
        task_name,
        args or b"",
        kwargs or b"",
        options or b"",
        count_of(attempts),
        count_of(interruptions),
        count_of(recoveries),
        checkpoint or b"",
        bound is not None,
        trace or b"",
    )


def _read_jobs(of_each: Sequence[Any], now: int) -> list[FetchedJob]:
    """The jobs of a fetch. Raises ValueError for a time that is none."""
    jobs = list[FetchedJob]()
    since, waited = (
        b"",
        -1,
    )  # of the job before: jobs that were enqueued together have one time, and reading it takes a while
    for job_id, delivery, buffered, queue, record in of_each:
        if len(record) == _PLAIN:
            if record[0] != since:
                since = record[0]
                waited = now - int(since or now)
            jobs.append(FetchedJob(job_id, delivery, buffered, queue, waited, record[2], record[3] or b""))
        else:
            jobs.append(_fetched(job_id, delivery, buffered, queue, record, now))
    return jobs


def _read_fetch(reply: Any) -> Fetched | Refusal:
    if reply[0] == b"ok":
        # After a head of seven, the five fields of each job in turn.
        of_each = list(zip(reply[7::5], reply[8::5], reply[9::5], reply[10::5], reply[11::5], strict=True))
        now = int(reply[6])
        try:
            jobs = _read_jobs(of_each, now)
        except ValueError:  # something else wrote one of the times
            jobs = [_fetched(*one, now) for one in of_each]
        due_ms = int(reply[2])
        due = None if due_ms < 0 else due_ms / 1000
        more, must_start = reply[1] in (b"1", b"n"), reply[1] == b"n"
        held = int(reply[4]) / 1000
        return Fetched(
            jobs, more, due, tuple(map(to_text, reply[3])), must_start, held, reply[5] != b"0", reply[5] == b"l"
        )
    try:
        return _REFUSALS[reply[0]]
    except KeyError:
        raise _unknown("fetch", reply) from None


# settle


class OutcomeKind(StrEnum):
    """What a delivery came to; lua/settle.lua says what each means."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    RETRY = "retry"
    SNOOZED = "snoozed"
    INTERRUPTED = "interrupted"
    UNSTARTED = "unstarted"
    PARKED = "parked"
    BOUND = "bound"


# Looking a member up in its class takes as long as comparing it.
_SUCCEEDED = OutcomeKind.SUCCEEDED


class Outcome(msgspec.Struct, gc=False):
    """One delivery's outcome; the fields are those of lua/settle.lua."""

    id: bytes
    delivery: bytes
    kind: OutcomeKind
    ms: int
    payload: bytes
    reason: str
    rich: bool = False  # its record has a unique key, limits or a lane, so that its end touches more
    ran_ms: int | None = None  # for how long it ran; None if it did not start, and for a success
    trace: str = ""  # its traceparent, for a link from the job's next delivery


class Verdict(StrEnum):
    """What became of an outcome."""

    OK = "ok"
    AGAIN = "again"
    FENCED = "fenced"
    GONE = "gone"


def settle(
    lease: str, outcomes: Sequence[Outcome], resend_window: float, result_ttl: float = 0.0
) -> Call[list[Verdict]]:
    """
    Record outcomes (at most MAX_BATCH; see Settler for rich ones); a verdict for each, in order. Safe to repeat.

    Most successes are kept for `result_ttl`; one that is, and has no result, is sent in a short form.
    """
    keep_ms = round(result_ttl * 1000)
    args: list[Any] = [lease, _ms(resend_window), keep_ms]
    run: bytes | None = None  # the delivery number of the plain successes that are being counted
    count_at = 0
    for it in outcomes:
        if it.kind is _SUCCEEDED and it.ms == keep_ms and not it.payload:
            if it.delivery != run:
                run, count_at = it.delivery, len(args) + 2
                args += (run, b"", 0)
            args[count_at] += 1
            args.append(it.id)
        else:
            run = None
            args += (it.delivery, _packed(it.kind, str(it.ms), it.payload, it.reason.encode(), _ran(it)), 1, it.id)
    return Call("settle", args, _READ_SETTLE)


def _ran(outcome: Outcome) -> bytes:
    ms = b"" if outcome.ran_ms is None else b"%d" % outcome.ran_ms
    return ms + b" " + outcome.trace.encode() if outcome.trace else ms


class LateOutcome(NamedTuple):
    """How a delivery of a lost lease ended; it changes nothing."""

    id: bytes
    delivery: bytes
    outcome: OutcomeKind
    ran_ms: int


def late(lease: str, outcomes: Sequence[LateOutcome]) -> Call[int]:
    """Note in their jobs' histories that up to MAX_RICH deliveries of a lost lease have ended; how many were noted."""
    args: list[Any] = [lease]
    for it in outcomes:
        args += (it.id, it.delivery, it.outcome.value, it.ran_ms)
    return Call("late", args, int)


_READ_SETTLE = _words("settle", {verdict.value.encode(): verdict for verdict in Verdict})


# a running job's notes


class NoteWord(StrEnum):
    """Whether a running job's note was stored."""

    OK = "ok"
    FENCED = "fenced"
    GONE = "gone"


class NoteKind(StrEnum):
    """What a running job may store besides its outcome."""

    PROGRESS = "progress"
    CHECKPOINT = "checkpoint"
    LOG = "log"


def note(lease: str, job_id: bytes, delivery: bytes, kind: NoteKind, value: bytes) -> Call[NoteWord]:
    """Store progress, a checkpoint or a log line of a delivery that still owns its job."""
    return Call("note", [lease, job_id, delivery, kind, value], _READ_NOTE)


_READ_NOTE = _word("note", {word.value.encode(): word for word in NoteWord})


def inputs(job_id: bytes, first: int, max_bytes: int = MAX_BYTES) -> Call[tuple[list[bytes], bool]]:
    """Encoded results, from number `first` on, that a job wants of those before it (b"" for none); whether there are more."""
    return Call("inputs", [job_id, first, max_bytes], lambda reply: (reply[1:], reply[0] == b"1"))


def tend() -> Call[bool]:
    """Make due jobs and the followers of ended jobs takeable, up to a bounded number; True if some are left."""
    return Call("tend", [], lambda reply: bool(int(reply[0])))


# recovery


class Fate(StrEnum):
    """What recovery did with one job."""

    REQUEUED = "requeued"
    UNSTARTED = "unstarted"
    INTERRUPTED = "interrupted"
    DEAD = "dead"
    CANCELLED = "cancelled"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Recovered:
    """One job that recovery moved."""

    id: str
    task: str
    fate: Fate
    recoveries: int
    charges: int


class PortionWord(StrEnum):
    """What a recover call found: jobs to move, a live lease, a hold, another instance at work, or nothing."""

    OK = "ok"
    ALIVE = "alive"
    HOLD = "hold"
    BUSY = "busy"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Portion:
    """
    One recover call: its word; `wait` seconds for alive and hold, `remaining`
    jobs for ok.
    """

    word: PortionWord
    jobs: tuple[Recovered, ...] = ()
    remaining: int = 0
    wait: float = 0.0
    label: str = ""


def recover(
    lease: str,
    *,
    owner: str,
    max_recoveries: int,
    lock_ttl: float,
    resend_window: float,
    interval: float,
    n: int = MAX_BATCH,
    ids: Sequence[str] = (),
    discard_by: str = "",
    keep: float = 0.0,
) -> Call[Portion]:
    """
    Move up to n jobs of a lease that ran out or was released; or only those of `ids` that it owns, which end as cancelled where
    `discard_by` says who wants that, and stay for `keep` seconds.
    """
    if len(ids) > MAX_BATCH or (discard_by and not ids):
        raise InvariantError(f"recover: {len(ids)} ids; at most {MAX_BATCH}, and some to discard")
    args = [
        lease,
        n,
        max_recoveries,
        owner,
        _ms(lock_ttl),
        _ms(resend_window),
        _ms(interval),
        discard_by,
        _ms(keep),
        *ids,
    ]
    return Call("recover", args, _read_recover)


def _read_recover(reply: Any) -> Portion:
    match reply:
        case [b"ok", remaining, label, *rest]:
            jobs = tuple(
                Recovered(to_text(job_id), to_text(task), Fate(to_text(fate)), int(recoveries), int(charges))
                for job_id, task, fate, recoveries, charges in zip(*(rest[at::5] for at in range(5)), strict=True)
            )
            return Portion(PortionWord.OK, jobs, int(remaining), 0.0, to_text(label))
        case [(b"alive" | b"hold") as word, wait_ms]:
            return Portion(PortionWord(to_text(word)), wait=int(wait_ms) / 1000)
        case [(b"busy" | b"gone") as word]:
            return Portion(PortionWord(to_text(word)))
    raise _unknown("recover", reply)


def sweep(ttl: float) -> Call[list[str]]:
    """Leases (at most 100) that may need recovery."""
    return Call("sweep", [_ms(ttl)], lambda reply: [to_text(lease) for lease in reply])


def unpark(task: str, queues: Sequence[str], n: int = MAX_RICH) -> Call[tuple[int, int]]:
    """Move up to n parked jobs of a task back to their queues: (moved, remaining); (0, 0) while it is paused."""
    return Call("unpark", [to_bytes(task), n, *map(to_bytes, queues)], _read_unpark)


def _read_unpark(reply: Any) -> tuple[int, int]:
    match reply:
        case [b"ok", moved, remaining]:
            return int(moved), int(remaining)
        case [b"paused"]:
            return 0, 0
    raise _unknown("unpark", reply)


def trim(max_age: float, max_count: int, n: int = MAX_RICH) -> Call[int]:
    """Remove dead jobs beyond the limits; how many. n of them means: call again."""
    return Call("trim", [_ms(max_age), max_count, n], int)


def drop(kind: str, name: str, n: int = MAX_RICH) -> Call[int]:
    """Take ended jobs off the head of a list (`queue`, `suspects`, `lane`, `parked`); how many: n of them means, call again."""
    return Call("drop", [kind, to_bytes(name), n], int)


def forget(queue: str) -> Call[bool]:
    """Let go of the name of a queue; False if it holds jobs."""
    return Call("forget", [to_bytes(queue)], _word("forget", {b"ok": True, b"busy": False}))


# results


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of a job that ended; its parts still encoded."""

    state: State
    result: bytes
    reason: str
    error: bytes
    task: str = ""
    left_out: int = 0  # bytes of a result that was not stored, since Redis was full


def await_end(job_id: str) -> Call[Ended | bool]:
    """The outcome; True while the job has not ended (its end will be published); False for no record."""
    return Call("await", [to_bytes(job_id)], _read_await)


def _read_await(reply: Any) -> Ended | bool:
    match reply:
        case [b"ended", state, result, reason, error, task, left_out]:
            return Ended(State(to_text(state)), result, to_text(reason), error, to_text(task), int(left_out))
        case [b"waiting", _]:
            return True
        case [b"gone"]:
            return False
    raise _unknown("await", reply)


# the operator's


class CancelWord(StrEnum):
    """What a request to cancel did: ended the job, asked its instance, or found nothing to do."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    ENDED = "ended"
    GONE = "gone"


def cancel(ids: Sequence[str], keep: float, by: str = "") -> Call[list[CancelWord]]:
    """Cancel up to MAX_RICH jobs, because `by` asks for it; their records stay for `keep` seconds."""
    return Call("cancel", [_ms(keep), to_bytes(by), *map(to_bytes, ids)], _READ_CANCEL)


_READ_CANCEL = _words("cancel", {word.value.encode(): word for word in CancelWord})


class DeadWord(StrEnum):
    """What became of a dead job's requeue or purge."""

    OK = "ok"
    NOT_DEAD = "not_dead"
    HELD = "held"
    UNUSABLE = "unusable"
    GONE = "gone"


_DEAD_WORDS = {word.value.encode(): word for word in DeadWord}
_READ_REQUEUE = _words("requeue", _DEAD_WORDS)
_READ_PURGE = _words("purge", _DEAD_WORDS)


def requeue(ids: Sequence[str], by: str = "") -> Call[list[DeadWord]]:
    """Queue up to MAX_RICH dead jobs again, because `by` asks for it."""
    return Call("requeue", [to_bytes(by), *map(to_bytes, ids)], _READ_REQUEUE)


def purge(ids: Sequence[str]) -> Call[list[DeadWord]]:
    """Remove up to MAX_RICH dead jobs."""
    return Call("purge", list(map(to_bytes, ids)), _READ_PURGE)


# How many jobs one call moves: each may be searched for in a long list.
MAX_MOVED = 20


class MoveWord(StrEnum):
    """What became of a job that was to wait in another queue; lua/move.lua says what each means."""

    OK = "ok"
    SAME = "same"
    STARTED = "started"
    ENDED = "ended"
    LIMITED = "limited"
    SUSPECT = "suspect"
    DEEP = "deep"
    FOREIGN = "foreign"
    GONE = "gone"


def move(ids: Sequence[str], queue: str, by: str = "") -> Call[list[MoveWord]]:
    """Put up to MAX_MOVED jobs that have not started into another queue, because `by` asks for it."""
    return Call("move", [to_bytes(by), to_bytes(queue), *map(to_bytes, ids)], _READ_MOVE)


_READ_MOVE = _words("move", {word.value.encode(): word for word in MoveWord})


class RescheduleWord(StrEnum):
    """What became of a scheduled job that was to be due at another time."""

    OK = "ok"
    NOT_SCHEDULED = "not_scheduled"
    GONE = "gone"


def reschedule(
    ids: Sequence[str], by: str = "", *, delay_ms: int | None = None, due_ms: int = 0
) -> Call[list[RescheduleWord]]:
    """Give up to MAX_RICH scheduled jobs another due time, in `delay_ms` from now or at `due_ms`, because `by` asks for it."""
    due = str(due_ms) if delay_ms is None else f"+{delay_ms}"
    return Call("reschedule", [to_bytes(by), due, *map(to_bytes, ids)], _READ_RESCHEDULE)


_READ_RESCHEDULE = _words("reschedule", {word.value.encode(): word for word in RescheduleWord})


class DeleteWord(StrEnum):
    """What became of an ended job that was to be deleted; lua/delete.lua says what each means."""

    OK = "ok"
    WANTED = "wanted"
    NOT_ENDED = "not_ended"
    DEAD = "dead"
    GONE = "gone"


def delete(ids: Sequence[str], resend_window: float) -> Call[list[DeleteWord]]:
    """Remove what up to MAX_RICH ended jobs carried; their ids stay known for `resend_window` seconds."""
    return Call("delete", [_ms(resend_window), *map(to_bytes, ids)], _READ_DELETE)


_READ_DELETE = _words("delete", {word.value.encode(): word for word in DeleteWord})


def act(by: str, action: str, facts: str) -> Call[bool]:
    """Keep what a person has done: who, what, and the facts as JSON."""
    return Call("act", [to_bytes(by), action, facts], _word("act", {b"ok": True}))


def pause(what: str) -> Call[bool]:
    """Pause 'queue:<name>' or 'task:<name>'; False if it was paused already."""
    return Call("pause", [to_bytes(what)], _word("pause", {b"ok": True, b"again": False}))


def resume(what: str) -> Call[bool]:
    """Undo a pause; False if there was none."""
    return Call("resume", [to_bytes(what)], _word("resume", {b"ok": True, b"again": False}))
