"""Malformed payloads, records and replies, given to everything that reads them: a clear error for each, and no other."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tracked_queue.cli.commands import cli
from tracked_queue.cli.common import clean
from tracked_queue.errors import (
    ArgumentError,
    InvariantError,
    JobError,
    SealedError,
    StoreRefusedError,
    UnreadableJobError,
)
from tracked_queue.model.cipher import Cipher
from tracked_queue.model.codec import (
    Signature,
    decode_any,
    decode_error,
    decode_options,
    encode_any,
    encode_error,
    encode_exception,
)
from tracked_queue.producer.results import value_of
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.events import read_events
from tracked_queue.protocol.packing import decode_extras, encode_extras
from tracked_queue.protocol.states import State
from tracked_queue.protocol.transitions import Ended
from tracked_queue.reports.jobs import make_info
from tracked_queue.reports.runs import runs_of

pytestmark = pytest.mark.timeout(600)

CASES = int(os.environ.get("FUZZ_CASES", "1500"))
many = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)

# Bytes that real records, replies and attackers hold, and cuts and splices of them.
CORPUS = [
    b"", b"0", b"1", b"-1", b"+5", b"1e308", b"nan", b"inf", b"9" * 40, b"0x10", b"null", b"true", b"\x00", b"\xff\xfe", b"\xc0",
    b"\xc1", b"\xc1gAAAAA", b"\x91", b"\x91\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\x81\xa1a\x01", b"\x93\x01\x02", b"\x1b[31mred", b"<script>", b"queued", b"active", b"succeeded", b"waiting", b"nonsense",
    encode_any([1, "two", None]), encode_any({"a": [1.5]}), encode_error("ValueError", "x", "trace"),
    encode_exception(ValueError("x")), encode_extras({"limits": [["a", "concurrency", 1, 0, 1]]}), b"\x91" * 2000, b"\x81\xa1a" * 900,
    encode_extras({"after": ["x"], "on_failure": "fail"}), "é\u202e\u200b".encode(), b"1 1 1 1 ", b"created", b"ok", b"held",
]  # fmt: skip
raw = st.one_of(
    st.sampled_from(CORPUS),
    st.binary(max_size=64),
    st.builds(
        lambda one, two, at: one[:at] + two, st.sampled_from(CORPUS), st.sampled_from(CORPUS), st.integers(0, 20)
    ),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=8)
        | st.binary(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ).map(msgspec.msgpack.encode),
)
short = st.sampled_from([data for data in CORPUS if len(data) < 100]) | st.binary(max_size=16)
reply = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | short, lambda inner: st.lists(inner, max_size=6), max_leaves=12
)


class Colour(Enum):
    RED = "red"


@dataclass
class Order:
    number: int
    price: Decimal
    at: datetime | None = None


def plain(a: int, b: str = "x", *rest: float, c: bool = False, **more: Any) -> None: ...
def typed(order: Order, colour: Colour, id: UUID, many: list[dict[str, Order]]) -> None: ...
def loose(value, other=None) -> None: ...  # type: ignore[no-untyped-def]


SIGNATURES = [Signature("t", function) for function in (plain, typed, loose)]


@many
@given(st.sampled_from(SIGNATURES), raw, raw, st.integers(0, 1))
def test_arguments(signature: Signature, args: bytes, kwargs: bytes, given_first: int) -> None:
    with contextlib.suppress(ArgumentError):
        signature.decode(args, kwargs, given_first)
    with contextlib.suppress(ArgumentError, ValueError, TypeError):
        signature.decode_first(args)


@many
@given(raw)
@example(b"\x91" * 5000)
def test_options_extras_errors_and_values(data: bytes) -> None:
    for decode in (decode_options, decode_extras):
        with contextlib.suppress(msgspec.DecodeError):
            decode(data)
    decode_error(data)
    with contextlib.suppress(ValueError):
        decode_any(data)
    with contextlib.suppress(SealedError):
        Cipher([]).open(data)
    assert all(char.isprintable() for char in clean(data.decode("utf-8", "replace")))


FIELDS = [
    "task", "queue", "state", "attempts", "interruptions", "recoveries", "charges", "delivery", "lease", "cancel", "queued_ms",
    "due_ms", "finished_ms", "reason", "error", "error:0", "error:1", "failures", "failed_ms", "failed_by", "snoozes", "waits",
    "progress", "checkpoint", "lines", "line:0", "line:1", "result",
    "events", "event:0", "event:9", "after", "limits", "options", "args", "kwargs", "started", "buffered", "unique", "lane", "tracked",
]  # fmt: skip


@many
@given(st.dictionaries(st.sampled_from(FIELDS).map(str.encode), raw, max_size=12), st.sampled_from(list(State)))
@example({b"failures": b"2", b"error:0": b""}, State.QUEUED)
def test_records_as_people_read_them(record: dict[bytes, bytes], state: State) -> None:
    with contextlib.suppress(UnreadableJobError):
        info = make_info("id", {b"state": state.value.encode(), **record}, None, Cipher([]))
        assert info.state in State and isinstance(info.task, str)
        assert all(run.started_at for run in runs_of(read_events(record), record))


@many
@given(st.sampled_from(list(State)), raw, raw, st.text(max_size=10))
def test_outcomes_as_callers_get_them(state: State, result: bytes, error: bytes, reason: str) -> None:
    with contextlib.suppress(JobError, SealedError, ValueError):
        value_of("id", Ended(state, result, reason, error), None, Cipher([]))


CALLS: dict[str, t.Call[Any]] = {
    "enqueue": t.enqueue([]), "register": t.register("l", 3, 1, {}), "heartbeat": t.heartbeat("l", 3, 1),
    "release": t.release("l", t.End.DIED), "quiet": t.quiet("l", True), "owned": t.owned("l"),
    "fetch": t.fetch("l", 1, 1, 0, ["q"]), "settle": t.settle("l", [], 1), "note": t.note("l", b"i", b"1", "log", b""),
    "recover": t.recover("l", owner="o", max_recoveries=3, lock_ttl=1, resend_window=1, interval=1), "sweep": t.sweep(3),
    "unpark": t.unpark("t", []), "trim": t.trim(1, 1), "await": t.await_end("i"), "cancel": t.cancel(["i"], 1),
    "requeue": t.requeue(["i"]), "purge": t.purge(["i"]), "pause": t.pause("queue:q"), "resume": t.resume("queue:q"),
    "schedule": t.schedule([("a", "b", "c", "d")]), "inputs": t.inputs(b"i", 0), "follow": t.follow("i", 0, 0, ["a"], last=True), "tend": t.tend(), "layout": t.layout("", "1"), "close": t.close("close"), "protocol": t.protocol(1, 1, 1, "look"), "drop": t.drop("queue", "q"), "forget": t.forget("q"),
    "move": t.move(["i"], "q"), "reschedule": t.reschedule(["i"]), "delete": t.delete(["i"], 1),
    "late": t.late("l", []), "act": t.act("b", "a", "{}"), "instances": t.instances(["label"]),
}  # fmt: skip


def test_every_transition_is_among_them() -> None:
    made = {
        name for name, function in inspect.getmembers(t, inspect.isfunction)
        if "Call[" in str(inspect.signature(function).return_annotation)
    }  # fmt: skip
    assert made == {{"await": "await_end"}.get(name, name) for name in CALLS}


@pytest.mark.parametrize("name", CALLS)
def test_replies(name: str) -> None:
    read = CALLS[name].value

    @settings(many, max_examples=max(50, CASES // 5))
    @given(reply)
    def run(data: Any) -> None:
        with contextlib.suppress(InvariantError, StoreRefusedError):
            read(data)

    run()


@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from(
            [
                b'{"format": 1, "running": [[1, 2]]}',
                b'{"kind": 3, "facts": [[]]}',
                b'{"stack": 1, "task": {}}',
                b'{"kind": "a", "ago": "x", "facts": {"a": 1}}',
                b"[1]",
            ]
        ),
        max_size=8,
    )
)
def test_a_flight_file_of_any_kind_is_printed_or_refused_in_a_line(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.flight"
        for first in (b"", b'{"format": 1}\n'):
            path.write_bytes(first + b"\n".join(lines))
            done = CliRunner().invoke(cli, ["trace", str(path)])
            assert done.exit_code in (0, 2), done.exception
