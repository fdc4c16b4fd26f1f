"""Jobs as people read them, one by one and all that are open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..errors import JobNotFoundError, UnreadableJobError
from ..model.cipher import Cipher
from ..model.codec import ValueCodec, decode_any, decode_error, decode_options
from ..model.record import Failure, JobEvent, JobInfo, LogLine, Progress
from ..protocol.events import Event, left_out, read_events
from ..protocol.states import State
from ..protocol.text import to_text
from ..protocol.transitions import MAX_RICH, drop
from ..transport.store import Store
from .instances import read_instances
from .reading import PAGE, _delivered, lanes_of, number_of, pages_of, scan, state_of, text_of, time_of

_SEALED = (b"result", b"error", b"checkpoint", b"progress", b"args")


def make_info(job_id: str, record: dict[bytes, bytes], codec: ValueCodec | None, cipher: Cipher) -> JobInfo:
    """A record as people read it; a result that doesn't decode any more, or that no key opens, is None."""

    state = state_of(record.get(b"state"))
    if state is None:
        raise UnreadableJobError(job_id)

    def number(name: bytes) -> int:
        return number_of(record.get(name))

    try:
        packed = cipher.peek(record.get(b"result"))
        result: Any = codec.decode(packed) if codec and packed else decode_any(packed)
    except Exception:  # bytes of an older or foreign worker; the rest of the record is still worth reading
        result = None
    failures = number(b"failures")
    lines = number(b"lines")
    return JobInfo(
        id=job_id,
        task=text_of(record.get(b"task")),
        queue=text_of(record.get(b"queue")),
        state=state,
        attempts=number(b"attempts") + _uncounted_run(state, record),
        interruptions=number(b"interruptions"),
        recoveries=number(b"recoveries"),
        charges=number(b"charges"),
        delivery=abs(number(b"delivery")) or None,
        lease=text_of(record[b"lease"]) if b"lease" in record else None,
        cancel_requested=b"cancel" in record,
        queued_at=time_of(record.get(b"queued_ms")),
        due_at=time_of(record.get(b"due_ms")) if record.get(b"state") == b"scheduled" else None,
        fetched_at=_delivered(record.get(b"delivery")),
        finished_at=time_of(record.get(b"finished_ms")),
        reason=text_of(record.get(b"reason")) or None,
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
        started_at=_started(state, record),
        args=_sequence(cipher.peek(record.get(b"args"))),
        kwargs=_mapping(cipher.peek(record.get(b"kwargs"))),
        headers=_headers(cipher.peek(record.get(b"options"))),
        unique=text_of(record[b"unique"]) if b"unique" in record else None,
        limits=_limit_names(record.get(b"limits")),
        lane=text_of(record[b"lane"]) if b"lane" in record else None,
        after=tuple(item for item in _listed(record.get(b"after")) if isinstance(item, str)),
        tracked=record.get(b"tracked") != b"0",
        history=tuple(map(_event, read_events(record))),
        history_left_out=left_out(record),
        sealed=any(cipher.peek(record.get(name)) is None for name in _SEALED if name in record),
    )


def _uncounted_run(state: State, record: Mapping[bytes, bytes]) -> int:
    """
    1 if there is a run that the record's ledger of failed runs does not count: one that ended the job in another way,
    or one that is under way. This saves a plain success the write.
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
    return Failure(type=kind, message=message, traceback=trace, at=time_of(when), lease=text_of(lease))


def _event(event: Event) -> JobEvent:
    return JobEvent(
        at=time_of(b"%d" % event.ms),
        kind=event.kind,
        delivery=event.delivery,
        lease=event.lease,
        detail=event.detail,
        started_at=time_of(b"%d" % event.started_ms) if event.started_ms > 0 else None,
    )


def _started(state: State, record: Mapping[bytes, bytes]) -> datetime | None:
    """When the last run started: at its delivery, unless it waited in the instance; then a beat may have noted it."""
    if record.get(b"buffered") == b"1":
        delivery, _, ms = record.get(b"started", b"").partition(b" ")
        return time_of(ms) if delivery == record.get(b"delivery", b"").lstrip(b"-") else None
    ended = b"finished_ms" in record and record.get(b"delivery", b"").startswith(b"-")
    ran = state is State.ACTIVE or ended
    return _delivered(record.get(b"delivery")) if ran else None


def _sequence(packed: bytes | None) -> tuple[Any, ...] | None:
    found = _plain(packed) if packed else [] if packed is not None else None
    return tuple(found) if isinstance(found, list | tuple) else None


def _mapping(packed: bytes | None) -> Mapping[str, Any] | None:
    found = _plain(packed) if packed else {}
    return found if isinstance(found, dict) else None


def _headers(packed: bytes | None) -> Mapping[str, Any]:
    try:
        return decode_options(packed).headers or {} if packed else {}
    except (msgspec.DecodeError, ValueError):
        return {}


def _listed(packed: bytes | None) -> list[Any]:
    found = _plain(packed)
    return found if isinstance(found, list) else []


def _limit_names(packed: bytes | None) -> tuple[str, ...]:
    return tuple(item[0] for item in _listed(packed) if isinstance(item, list) and item and isinstance(item[0], str))


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
    return LogLine(at=time_of(when) or datetime.fromtimestamp(0, UTC), text=text_of(text))


async def read_job(store: Store, job_id: str, codec: ValueCodec | None, cipher: Cipher) -> JobInfo:
    """One job's record. Raises JobNotFoundError."""
    record = await store.read_record(job_id)
    if record is None:
        raise UnreadableJobError(job_id)
    if b"state" not in record:
        raise JobNotFoundError(job_id)
    return make_info(job_id, record, codec, cipher)


async def read_states(store: Store, job_ids: Sequence[str]) -> list[State | None]:
    """The states of jobs, in pages; None for one without a record."""
    return [state_of(state) async for _, (state,) in _fields_of(store, job_ids, "state")]


async def read_places(store: Store, job_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The queue and the task of each job that there is."""
    return {
        job_id: (text_of(queue), text_of(task))
        async for job_id, (queue, task) in _fields_of(store, job_ids, "queue", "task")
        if queue is not None or task is not None
    }


async def read_leases(store: Store, job_ids: Sequence[str]) -> dict[str, str]:
    """The lease that each of those that are active was handed to."""
    return {
        job_id: text_of(lease)
        async for job_id, (state, lease) in _fields_of(store, job_ids, "state", "lease")
        if state == b"active" and lease
    }


async def _fields_of(
    store: Store, job_ids: Sequence[str], *names: str
) -> AsyncIterator[tuple[str, Sequence[bytes | None]]]:
    """These fields of each job's record, read in pages."""
    for at in range(0, len(job_ids), PAGE):
        page = job_ids[at : at + PAGE]
        for found in zip(page, await store.read_fields(page, *names), strict=True):
            yield found


async def read_open_jobs(
    store: Store, *, queue: str | None = None, task: str | None = None
) -> AsyncIterator[list[str]]:
    """Ids of the jobs of a queue or a task that are queued, in lanes, scheduled, waiting, parked or active now, in pages."""
    keys = store.keys
    (names,) = await store.read(("SMEMBERS", keys.single("queues")))
    queues = [queue] if queue is not None else [text_of(name) for name in names]
    lists = [keys.named("queue", name) for name in queues]
    for name in queues:
        lists += [keys.named("lane", text_of(lane)) for lane in await lanes_of(store, name)]
    (parked,) = await store.read(("SMEMBERS", keys.single("parked")))
    for key in lists:
        async for ids in pages_of(store, key):
            yield await _wanted(store, ids, queue, task)
    for instance in await read_instances(store):
        async for page in scan(store, "SSCAN", keys.named("processing", instance.lease)):
            yield await _wanted(store, page, queue, task)
    for name in parked:
        # Cancelling takes ids out of this list, so all of it is read first.
        for ids in [ids async for ids in pages_of(store, keys.named("parked", text_of(name)))]:
            yield await _wanted(store, ids, queue, task)
    for key in (keys.single("dependents"), *(keys.named("suspected", name) for name in queues)):
        async for page in scan(store, "ZSCAN", key):
            yield await _wanted(store, page, queue, task)
    async for page in scan(store, "ZSCAN", keys.single("scheduled")):
        # Besides jobs, it also holds unfinished enqueues (see lua/include/tend.lua).
        yield await _wanted(store, [job_id for job_id in page if job_id[:1] != b"\x02"], queue, task)


async def drop_ended(store: Store, *, queue: str | None = None, task: str | None = None) -> int:
    """
    Take ended jobs off the lists of a queue, or of a task's parked jobs, so that their records expire even if no worker
    ever fetches from there; without either, off all lists but lanes, of which there may be any number. Returns their
    number.
    """
    keys, lists = store.keys, list[tuple[str, str]]()
    if task is None:
        (names,) = await store.read(("SMEMBERS", keys.single("queues")))
        for name in [queue] if queue is not None else map(text_of, names):
            lists.append(("queue", name))
            if queue is not None:
                lists += [("lane", text_of(lane)) for lane in await lanes_of(store, name)]
    if queue is None:
        (parked,) = await store.read(("SMEMBERS", keys.single("parked")))
        lists += [("parked", name) for name in ([task] if task is not None else map(text_of, parked))]
    dropped = 0
    for kind, name in lists:
        portion = MAX_RICH
        while portion == MAX_RICH:
            portion = await store.run(drop(kind, name))
            dropped += portion
    return dropped


async def _wanted(store: Store, ids: Sequence[bytes], queue: str | None, task: str | None) -> list[str]:
    found = await store.read_fields(ids, "queue", "task")
    return [
        to_text(job_id)
        for job_id, record in zip(ids, found, strict=True)
        if any(record)
        and (queue is None or text_of(record[0]) == queue)
        and (task is None or text_of(record[1]) == task)
    ]
