"""What people read of the store: a job, the queues, the instances, the dead. Reads only, and pages what is long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import JobNotFoundError, UnreadableJobError
from .model.cipher import Cipher
from .model.codec import ValueCodec, decode_any, decode_error
from .model.record import Failure, JobInfo, LogLine, Progress
from .protocol.states import State
from .protocol.transitions import MAX_RICH, drop
from .transport.store import Store

PAGE = 250
STATS_MINUTES = 5


def _number(raw: bytes | None) -> int:
    """A whole number as a script wrote it; 0 for none, and for what something else wrote there."""
    try:
        number = float(raw or 0)
        return int(number) if abs(number) < 2**53 else 0
    except ValueError:
        return 0


def _time(ms: bytes | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(_number(ms) / 1000, UTC) if ms else None
    except (ValueError, OverflowError, OSError):
        return None


def _state(raw: bytes | None) -> State | None:
    try:
        return State(_text(raw))
    except ValueError:
        return None


def _delivered(delivery: bytes | None) -> datetime | None:
    """A delivery's number is the server's time in ms, or a little more; its negative once it has settled."""
    number = (delivery or b"").lstrip(b"-")
    return _time(number) if number not in (b"", b"0") else None


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


async def _now_ms(store: Store) -> int:
    ((seconds, micros),) = await store.read(("TIME",))
    return int(seconds) * 1000 + int(micros) // 1000


_SEALED = (b"result", b"error", b"checkpoint", b"progress", b"args")


def make_info(job_id: str, record: dict[bytes, bytes], codec: ValueCodec | None, cipher: Cipher) -> JobInfo:
    """A record as people read it; a result that doesn't decode any more, or that no key opens, is None."""

    state = _state(record.get(b"state"))
    if state is None:
        raise UnreadableJobError(job_id)

    def number(name: bytes) -> int:
        return _number(record.get(name))

    try:
        packed = cipher.peek(record.get(b"result"))
        result: Any = codec.decode(packed) if codec and packed else decode_any(packed)
    except Exception:  # bytes of an older or foreign worker; the rest of the record is still worth reading
        result = None
    failures = number(b"failures")
    lines = number(b"lines")
    return JobInfo(
        id=job_id,
        task=_text(record.get(b"task")),
        queue=_text(record.get(b"queue")),
        state=state,
        attempts=number(b"attempts") + _uncounted_run(state, record),
        interruptions=number(b"interruptions"),
        recoveries=number(b"recoveries"),
        charges=number(b"charges"),
        delivery=abs(number(b"delivery")) or None,
        lease=_text(record[b"lease"]) if b"lease" in record else None,
        cancel_requested=b"cancel" in record,
        queued_at=_time(record.get(b"queued_ms")),
        due_at=_time(record.get(b"due_ms")) if record.get(b"state") == b"scheduled" else None,
        fetched_at=_delivered(record.get(b"delivery")),
        finished_at=_time(record.get(b"finished_ms")),
        reason=_text(record.get(b"reason")) or None,
        error=decode_error(cipher.peek(record.get(b"error"))),
        failures=tuple(_failures(record, failures, cipher)),
        snoozes=number(b"snoozes"),
        waits_for=number(b"waits") if record.get(b"state") == b"waiting" else 0,
        progress=_progress(cipher.peek(record.get(b"progress"))),
        checkpoint=_plain(cipher.peek(record.get(b"checkpoint"))),
        lines=tuple(
            _line(record.get(b"line:%d" % (at % 100), b""), cipher) for at in range(max(0, lines - 100), lines)
        ),
        result=result,
        sealed=any(cipher.peek(record.get(name)) is None for name in _SEALED if name in record),
    )


def _uncounted_run(state: State, record: Mapping[bytes, bytes]) -> int:
    """
    1 if there is a run that the record's ledger does not count, which holds the runs that failed: the one that ended the job in
    another way, or the one that is under way. So a plain success costs no write for it.
    """
    settled = record.get(b"delivery", b"").startswith(b"-")
    return int(
        state is State.SUCCEEDED
        or (state is State.FAILED and settled)
        or (state is State.CANCELLED and settled and record.get(b"reason", b"").startswith(b"cancelled while it ran"))
        or (state is State.ACTIVE and record.get(b"buffered") != b"1")
    )


def _failures(record: dict[bytes, bytes], count: int, cipher: Cipher) -> Iterator[Failure]:
    """The ring `error:0` to `error:3`, then `error`; see lua/settle.lua."""
    for at in range(max(0, count - 5), count - 1):
        when, _, rest = record.get(b"error:%d" % (at % 4), b"0 - ").partition(b" ")
        lease, _, packed = rest.partition(b" ")
        yield _failure(cipher.peek(packed) or b"", when, lease)
    if count:
        yield _failure(cipher.peek(record.get(b"error")) or b"", record.get(b"failed_ms"), record.get(b"failed_by"))


def _failure(packed: bytes, when: bytes | None, lease: bytes | None) -> Failure:
    error = decode_error(packed)
    kind, message, trace = (error.type, error.message, error.traceback) if error else ("", "", "")
    return Failure(type=kind, message=message, traceback=trace, at=_time(when), lease=_text(lease))


def _plain(packed: bytes | None) -> Any:
    try:
        return decode_any(packed)
    except ValueError:
        return None


def _progress(packed: bytes | None) -> Progress | None:
    found = _plain(packed)
    return (
        Progress(done=found[0], total=found[1], note=found[2]) if isinstance(found, list) and len(found) == 3 else None
    )


def _line(stored: bytes, cipher: Cipher) -> LogLine:
    when, _, text = stored.partition(b" ")
    text = cipher.peek(text) or b""
    return LogLine(at=_time(when) or datetime.fromtimestamp(0, UTC), text=_text(text))


async def read_job(store: Store, job_id: str, codec: ValueCodec | None, cipher: Cipher) -> JobInfo:
    """One job's record. Raises JobNotFoundError."""
    (flat,) = await store.read_records(("HGETALL", _key(store.keys.named("job", job_id))))
    if flat is None:
        raise UnreadableJobError(job_id)
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    if b"state" not in record:
        raise JobNotFoundError(job_id)
    return make_info(job_id, record, codec, cipher)


async def read_states(store: Store, job_ids: Sequence[str]) -> list[State | None]:
    """The states of jobs, in pages; None for one without a record."""
    states: list[State | None] = []
    for at in range(0, len(job_ids), PAGE):
        keys = [_key(store.keys.named("job", job_id)) for job_id in job_ids[at : at + PAGE]]
        found = await store.read_records(*(("HGET", key, "state") for key in keys))
        states += map(_state, found)
    return states


async def read_open_jobs(
    store: Store, *, queue: str | None = None, task: str | None = None
) -> AsyncIterator[list[str]]:
    """Ids of the jobs of a queue or a task that are queued, in lanes, scheduled, waiting, parked or active now, in pages."""
    keys = store.keys
    (names,) = await store.read(("SMEMBERS", keys.single("queues")))
    queues = [queue] if queue is not None else [_text(name) for name in names]
    lists = [keys.named("queue", name) for name in queues]
    for name in queues:
        lists += [keys.named("lane", _text(lane)) for lane in await _lanes(store, name)]
    (parked,) = await store.read(("SMEMBERS", keys.single("parked")))
    for key in lists:
        async for ids in _pages(store, key):
            yield await _wanted(store, ids, queue, task)
    for instance in await read_instances(store):
        async for page in _scan(store, "SSCAN", keys.named("processing", instance.lease)):
            yield await _wanted(store, page, queue, task)
    for name in parked:
        # Whoever cancels takes ids out of this list, so all of it is read first.
        for ids in [ids async for ids in _pages(store, keys.named("parked", _text(name)))]:
            yield await _wanted(store, ids, queue, task)
    for key in (keys.single("dependents"), *(keys.named("suspected", name) for name in queues)):
        async for page in _scan(store, "ZSCAN", key):
            yield await _wanted(store, page, queue, task)
    async for page in _scan(store, "ZSCAN", keys.single("scheduled")):
        # Beside jobs there stand unfinished enqueues (see lua/include/tend.lua).
        yield await _wanted(store, [job_id for job_id in page if job_id[:1] != b"\x02"], queue, task)


async def drop_ended(store: Store, *, queue: str | None = None, task: str | None = None) -> int:
    """
    Take ended jobs off the lists of a queue, or of a task's parked jobs, so that their records expire although nobody may ever
    fetch from there; without either, of all, but for lanes, of which there may be any number. How many.
    """
    keys, lists = store.keys, list[tuple[str, str]]()
    if task is None:
        (names,) = await store.read(("SMEMBERS", keys.single("queues")))
        for name in [queue] if queue is not None else map(_text, names):
            lists.append(("queue", name))
            if queue is not None:
                lists += [("lane", _text(lane)) for lane in await _lanes(store, name)]
    if queue is None:
        (parked,) = await store.read(("SMEMBERS", keys.single("parked")))
        lists += [("parked", name) for name in ([task] if task is not None else map(_text, parked))]
    dropped = 0
    for kind, name in lists:
        portion = MAX_RICH
        while portion == MAX_RICH:
            portion = await store.run(drop(kind, name))
            dropped += portion
    return dropped


async def _lanes(store: Store, queue: str) -> list[bytes]:
    """Lanes of a queue that hold jobs, wherever they wait for their turn."""
    return [lane async for page in _scan(store, "HSCAN", store.keys.named("laned", queue)) for lane in page]


async def _scan(store: Store, verb: str, key: str) -> AsyncIterator[list[bytes]]:
    """The members of a set (SSCAN) or a sorted one (ZSCAN), or the fields of a hash (HSCAN), in pages; one may come twice."""
    cursor = b"0"
    while True:
        ((cursor, flat),) = await store.read((verb, key, cursor, "COUNT", PAGE))
        yield flat if verb == "SSCAN" else flat[::2]
        if cursor == b"0":
            return


async def _pages(store: Store, key: str) -> AsyncIterator[list[bytes]]:
    """A list from its left end, in pages; what is added on the left meanwhile comes twice, and harms nothing."""
    at = 0
    while True:
        (ids,) = await store.read(("LRANGE", _key(key), at, at + PAGE - 1))
        if not ids:
            return
        yield ids
        at += len(ids)


async def _wanted(store: Store, ids: Sequence[bytes], queue: str | None, task: str | None) -> list[str]:
    prefix = store.keys.named("job", "").encode()
    found = await store.read_records(*(("HMGET", prefix + job_id, "queue", "task") for job_id in ids))
    return [
        job_id.decode("utf-8", "surrogateescape")
        for job_id, record in zip(ids, found, strict=True)
        if record and (queue is None or _text(record[0]) == queue) and (task is None or _text(record[1]) == task)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleReport:
    """One schedule: what it runs and when, its last tick, and when an instance last said that it runs it."""

    name: str
    task: str
    queue: str
    rule: str
    last_tick: datetime | None
    seen_s: float
    paused: bool


async def read_schedules(store: Store, limit: int = 1000) -> list[ScheduleReport]:
    """All schedules that some instance has run in the last 90 days."""
    now = await _now_ms(store)
    flat, paused = await store.read(
        ("ZREVRANGE", store.keys.single("schedules"), 0, limit - 1, "WITHSCORES"),
        ("SMEMBERS", store.keys.single("paused")),
    )
    found = []
    for name, seen in zip(flat[::2], flat[1::2], strict=True):
        (about,) = await store.read(
            ("HMGET", _key(store.keys.named("schedule", _text(name))), "task", "queue", "rule", "last_ms")
        )
        found.append(
            ScheduleReport(
                name=_text(name),
                task=_text(about[0]),
                queue=_text(about[1]),
                rule=_text(about[2]),
                last_tick=_time(about[3]),
                seen_s=max(0.0, (now - _number(seen)) / 1000),
                paused=b"schedule:" + name in paused,
            )
        )
    return sorted(found, key=lambda item: item.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """One queue: how long (with `suspects`, and `limited` ones in lanes), how old, how fast, and who serves it."""

    queue: str
    length: int
    suspects: int
    limited: int
    oldest_s: float | None
    enqueued_per_min: float
    succeeded_per_min: float
    failed_per_min: float
    paused: bool
    instances: int

    @property
    def unserved(self) -> bool:
        """Jobs wait and no live instance serves them."""
        return self.length > 0 and self.instances == 0 and not self.paused


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedReport:
    """Jobs of one task that wait for an instance that knows it, or for the end of a pause."""

    task: str
    length: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole system on one page."""

    queues: tuple[QueueReport, ...]
    parked: tuple[ParkedReport, ...]
    paused_tasks: tuple[str, ...]
    scheduled: int
    dead: int
    interrupted: tuple[str, ...]


async def read_overview(stores: Sequence[Store]) -> Overview:
    """
    Queues with lengths, ages, rates, pauses; parked tasks; active jobs interrupted three times or more; over all shards.
    """
    pages = [await _read_overview(store) for store in stores]
    queues = [one for page in pages for one in page.queues]
    parked = [one for page in pages for one in page.parked]
    return Overview(
        queues=tuple(
            _merged_queue([one for one in queues if one.queue == name])
            for name in sorted({one.queue for one in queues})
        ),
        parked=tuple(
            ParkedReport(
                task=task,
                length=sum(one.length for one in parked if one.task == task),
                paused=any(one.paused for one in parked if one.task == task),
            )
            for task in sorted({one.task for one in parked})
        ),
        paused_tasks=tuple(sorted({name for page in pages for name in page.paused_tasks})),
        scheduled=sum(page.scheduled for page in pages),
        dead=sum(page.dead for page in pages),
        interrupted=tuple(job_id for page in pages for job_id in page.interrupted),
    )


def _merged_queue(parts: Sequence[QueueReport]) -> QueueReport:
    """One queue over its shards, in each of which the same instances serve it."""
    return QueueReport(
        queue=parts[0].queue,
        length=sum(part.length for part in parts),
        suspects=sum(part.suspects for part in parts),
        limited=sum(part.limited for part in parts),
        oldest_s=max((part.oldest_s for part in parts if part.oldest_s is not None), default=None),
        enqueued_per_min=sum(part.enqueued_per_min for part in parts),
        succeeded_per_min=sum(part.succeeded_per_min for part in parts),
        failed_per_min=sum(part.failed_per_min for part in parts),
        paused=any(part.paused for part in parts),
        instances=min(part.instances for part in parts),
    )


async def _read_overview(store: Store) -> Overview:
    keys = store.keys
    now = await _now_ms(store)
    names, paused_set, parked_names, scheduled, dead = await store.read(
        ("SMEMBERS", keys.single("queues")),
        ("SMEMBERS", keys.single("paused")),
        ("SRANDMEMBER", keys.single("parked"), PAGE),
        ("ZCARD", keys.single("scheduled")),
        ("ZCARD", keys.single("dead")),
    )
    paused = {_text(what) for what in paused_set}
    instances = await read_instances(store)
    live = [instance for instance in instances if instance.alive and not instance.quiet]
    served = {queue for instance in live for queue in instance.queues}
    queues = sorted({_text(name) for name in names} | served | {w[6:] for w in paused if w.startswith("queue:")})
    rates = await _rates(store, now)
    reports = []
    for queue in queues:
        list_key, suspect_key = keys.named("queue", queue), keys.named("suspected", queue)
        length, suspects, oldest, first_suspect, laned = await store.read(
            ("LLEN", list_key),
            ("ZCARD", suspect_key),
            ("LINDEX", list_key, -1),
            ("ZRANGE", suspect_key, 0, 0),
            ("HGET", keys.single("laned"), queue),
        )
        ages = [await _waiting_s(store, job_id, now) for job_id in (oldest, *first_suspect) if job_id is not None]
        reports.append(
            QueueReport(
                queue=queue,
                length=length + suspects + _number(laned),
                suspects=suspects,
                limited=_number(laned),
                oldest_s=max((age for age in ages if age is not None), default=None),
                enqueued_per_min=rates.get(("enqueued", queue), 0.0),
                succeeded_per_min=rates.get(("succeeded", queue), 0.0),
                failed_per_min=sum(rates.get((what, queue), 0.0) for what in ("failed", "dead", "retry")),
                paused=f"queue:{queue}" in paused,
                instances=sum(queue in instance.queues for instance in live),
            )
        )
    parked = [
        ParkedReport(
            task=_text(name),
            length=(await store.read(("LLEN", keys.named("parked", _text(name)))))[0],
            paused=f"task:{_text(name)}" in paused,
        )
        for name in sorted(parked_names)
    ]
    return Overview(
        queues=tuple(reports),
        parked=tuple(parked),
        paused_tasks=tuple(sorted(what[5:] for what in paused if what.startswith("task:"))),
        scheduled=scheduled,
        dead=dead,
        interrupted=tuple(await _often_interrupted(store, instances, queues)),
    )


async def _waiting_s(store: Store, job_id: bytes, now: int) -> float | None:
    key = store.keys.named("job", "").encode() + job_id
    queued, due = (await store.read_records(("HMGET", key, "queued_ms", "due_ms")))[0] or (None, None)
    since = max(_number(queued), _number(due))
    return max(0.0, (now - since) / 1000) if since else None


async def _rates(store: Store, now: int) -> dict[tuple[str, str], float]:
    """Events per minute by (what, queue), over the last full minutes and the running one."""
    minute = now // 60_000
    stats = [store.keys.named("stats", str(minute - back)) for back in range(STATS_MINUTES)]
    totals: dict[tuple[str, str], int] = {}
    for flat in await store.read(*(("HGETALL", key) for key in stats)):
        for name, count in zip(flat[::2], flat[1::2], strict=True):
            what, _, queue = _text(name).partition(":")
            totals[what, queue] = totals.get((what, queue), 0) + _number(count)
    minutes = STATS_MINUTES - 1 + (now % 60_000) / 60_000
    return {name: count / minutes for name, count in totals.items()}


async def _often_interrupted(store: Store, instances: Sequence[InstanceReport], queues: Sequence[str]) -> list[str]:
    """Ids of jobs with three interruptions or more, among the active ones and the heads of the queues."""
    ids: list[bytes] = []
    heads = [("SRANDMEMBER", store.keys.named("processing", item.lease), PAGE) for item in instances[:50]]
    lists = [("LRANGE", store.keys.named("queue", queue), -PAGE, -1) for queue in queues[:50]]
    for found in await store.read(*heads, *lists):
        ids += found
    prefix = store.keys.named("job", "").encode()
    counts: list[bytes | None] = []
    for at in range(0, len(ids), PAGE):
        counts += await store.read_records(
            *(("HGET", prefix + job_id, "interruptions") for job_id in ids[at : at + PAGE])
        )
    return [_text(job_id) for job_id, count in zip(ids, counts, strict=True) if _number(count) >= 3]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """One instance: who it is, what it serves, what it owns, and when it was last seen."""

    lease: str
    label: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    task_names: tuple[str, ...]
    concurrency: int
    started_at: datetime | None
    seen_s: float | None
    deadline_s: float
    revoked: bool
    quiet: bool
    owned: int
    tests: bool
    machine: str
    born: str
    program: str

    @property
    def alive(self) -> bool:
        """Its lease is open and not past its deadline."""
        return not self.revoked and self.deadline_s > 0


async def read_instances(store: Store, limit: int = 1000) -> list[InstanceReport]:
    """All instances, the dead ones that still own jobs included."""
    keys = store.keys
    now = await _now_ms(store)
    (flat,) = await store.read(("ZRANGE", keys.single("instances"), 0, limit - 1, "WITHSCORES"))
    leases = [(_text(lease), float(score)) for lease, score in zip(flat[::2], flat[1::2], strict=True)]
    about_all: list[tuple[list[bytes], int]] = []
    for at in range(0, len(leases), PAGE):
        page = [lease for lease, _ in leases[at : at + PAGE]]
        replies = await store.read(
            *(("HGETALL", keys.named("instance", lease)) for lease in page),
            *(("SCARD", keys.named("processing", lease)) for lease in page),
        )
        about_all += zip(replies[: len(page)], replies[len(page) :], strict=True)
    found = []
    for (lease, deadline), (fields, owned) in zip(leases, about_all, strict=True):
        about = {_text(name): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
        seen = about.get("seen_ms")
        found.append(
            InstanceReport(
                lease=lease,
                label=_text(about.get("label")),
                host=_text(about.get("host")),
                pid=_number(about.get("pid")),
                version=_text(about.get("version")),
                queues=tuple(_text(about.get("queues")).split("\n")) if about.get("queues") else (),
                task_names=tuple(_text(about.get("tasks")).split("\n")) if about.get("tasks") else (),
                concurrency=_number(about.get("concurrency")),
                started_at=_time(about.get("started_ms")),
                seen_s=(now - _number(seen)) / 1000 if seen else None,
                deadline_s=(deadline - now) / 1000 if deadline else 0.0,
                revoked=deadline == 0,
                quiet=about.get("quiet") == b"1",
                owned=owned,
                tests="held" in about,
                machine=_text(about.get("machine")),
                born=_text(about.get("born")),
                program=_text(about.get("program")),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveJob:
    """A job in some instance's processing list."""

    id: str
    task: str
    lease: str
    age_s: float | None
    buffered: bool


async def read_active(store: Store, lease: str, limit: int = PAGE) -> list[ActiveJob]:
    """The first `limit` jobs of one instance, the oldest first."""
    now = await _now_ms(store)
    prefix = store.keys.named("job", "").encode()
    active: dict[str, ActiveJob] = {}
    async for ids in _scan(store, "SSCAN", store.keys.named("processing", lease)):
        for at in range(0, len(ids), PAGE):
            page = ids[at : at + PAGE]
            found = await store.read_records(
                *(("HMGET", prefix + job_id, "task", "delivery", "buffered") for job_id in page)
            )
            for job_id, record in zip(page, found, strict=True):
                task, delivery, buffered = record or (None, None, None)
                active[_text(job_id)] = ActiveJob(
                    id=_text(job_id),
                    task=_text(task),
                    lease=lease,
                    age_s=max(0.0, (now - abs(_number(delivery))) / 1000) if delivery else None,
                    buffered=buffered == b"1",
                )
    return sorted(active.values(), key=lambda job: (-(job.age_s or 0.0), job.id))[:limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead jobs; None leaves a part open. `reason` matches anywhere in the reason or the error's text."""

    task: str | None = None
    queue: str | None = None
    reason: str | None = None
    older_than: float | None = None

    def matches(self, job: DeadJob) -> bool:
        """Whether one dead job is meant."""
        text = f"{job.reason} {job.error}"
        return (
            (self.task is None or job.task == self.task)
            and (self.queue is None or job.queue == self.queue)
            and (self.reason is None or self.reason.lower() in text.lower())
            and (self.older_than is None or job.age_s >= self.older_than)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """One dead job."""

    id: str
    task: str
    queue: str
    age_s: float
    attempts: int
    charges: int
    reason: str
    error: str


async def read_dead(store: Store, wanted: DeadFilter, cipher: Cipher) -> AsyncIterator[DeadJob]:
    """
    The dead jobs that match, the oldest first, read in pages.

    A page starts after the last job that was read, by time and id, so that removing jobs on the way skips none.
    """
    dead, prefix = store.keys.single("dead"), store.keys.named("job", "").encode()
    now = await _now_ms(store)
    low, seen_at_low = "-inf", set[bytes]()
    while True:
        (flat,) = await store.read(
            ("ZRANGEBYSCORE", dead, low, "+inf", "WITHSCORES", "LIMIT", 0, PAGE + len(seen_at_low))
        )
        page = [
            (job_id, score) for job_id, score in zip(flat[::2], flat[1::2], strict=True) if job_id not in seen_at_low
        ]
        if not page:
            return
        records = await store.read(
            *(
                ("HMGET", prefix + job_id, "task", "queue", "attempts", "charges", "reason", "error")
                for job_id, _ in page
            )
        )
        for (job_id, score), (task, queue, attempts, charges, reason, error) in zip(page, records, strict=True):
            info = decode_error(cipher.peek(error))
            job = DeadJob(
                id=job_id.decode("utf-8", "surrogateescape"),
                task=_text(task),
                queue=_text(queue),
                age_s=max(0.0, (now - float(score)) / 1000),
                attempts=_number(attempts),
                charges=_number(charges),
                reason=_text(reason),
                error=f"{info.type}: {info.message}" if info else "",
            )
            if wanted.matches(job):
                yield job
        last = _text(page[-1][1])
        seen_at_low = {job_id for job_id, score in page if _text(score) == last} | (
            seen_at_low if last == low else set()
        )
        low = last


async def queue_age(store: Store, queue: str) -> float | None:
    """Seconds that the oldest job of a queue has waited; None for an empty queue."""
    now = await _now_ms(store)
    head, suspects = await store.read(
        ("LINDEX", store.keys.named("queue", queue), -1), ("ZRANGE", store.keys.named("suspected", queue), 0, 0)
    )
    ages = [await _waiting_s(store, job_id, now) for job_id in (head, *suspects) if job_id is not None]
    return max((age for age in ages if age is not None), default=None)


async def queue_known(store: Store, queue: str) -> bool:
    """Whether a job was ever in a queue of this name."""
    (found,) = await store.read(("SISMEMBER", store.keys.single("queues"), queue))
    return bool(found)


async def lease_deadline(store: Store, lease: str) -> float | None:
    """Seconds until a lease's deadline (negative: past it); None when it is revoked or gone."""
    now = await _now_ms(store)
    (score,) = await store.read(("ZSCORE", store.keys.single("instances"), _key(lease)))
    if score is None or float(score) == 0:
        return None
    return (float(score) - now) / 1000
