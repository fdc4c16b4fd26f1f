"""The small pure parts: retry, tasks and their names, errors, scripts, leases, reply words."""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.harness import request
from tracked_queue import (
    Exponential,
    InvariantError,
    Retry,
    State,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueue,
    UsageError,
    errors,
)
from tracked_queue.model.checks import check_name
from tracked_queue.producer.storing import portions
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.keys import Keys
from tracked_queue.sharding.shards import Shards
from tracked_queue.worker.lease import MAX_LABEL_IN_LEASE, LeaseState, new_lease
from tracked_queue.worker.outage import REMIND_S, SETTLE_S, Outage
from tracked_queue.worker.slots import Slots

new_id = Shards("x", 1).new_id


def test_backoff_is_capped_spread_and_never_overflows() -> None:
    """CASE-38."""
    backoff, rng = Exponential(base=2, cap=600), random.Random(1)
    for attempt in range(1, 5001):
        delay = backoff.delay(attempt, rng.random)
        assert 0 <= delay <= 600 and math.isfinite(delay)
    spread = [backoff.delay(5, rng.random) for _ in range(200)]
    assert min(spread) < 0.2 * 32 and max(spread) > 0.8 * 32


@pytest.mark.parametrize("after", [-1, math.nan, math.inf])
def test_retry_after_nonsense_is_refused(after: float) -> None:
    with pytest.raises(UsageError):
        Retry(after=after)


def test_ids_are_time_ordered_uuids() -> None:
    import uuid

    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000 and all(uuid.UUID(id).version == 7 and len(id) == 32 for id in ids)
    assert ids[0][:10] <= ids[-1][:10]


@pytest.mark.parametrize("name", ["a", "with space", "ünï", "x" * 256])
def test_good_names(name: str) -> None:
    assert check_name("job id", name) == name


@pytest.mark.parametrize("name", ["", "x" * 257, "x" * 10_000, "a\nb", "\x00", "\u200b", "\ud800", 5, None, b"a"])
def test_bad_names_are_refused_briefly(name: Any) -> None:
    with pytest.raises(UsageError) as found:
        check_name("job id", name)
    assert len(str(found.value)) < 200


# Tasks (CASE-68, CASE-71, CASE-72)


async def good(a: int) -> int:
    return a + 1


async def generator():  # type: ignore[no-untyped-def]
    yield 1


class Methods:
    async def method(self) -> None: ...

    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        lambda: None, generator, staticmethod(good), Methods().method, Methods(), functools.partial(good, 1), print, 5,
    ],
)  # fmt: skip
def test_wrong_kinds_of_functions_are_refused_at_decoration(function: Any) -> None:
    with pytest.raises(TypeError, match="can't be a task"):
        TrackedQueue().task()(function)


def test_a_generator_is_refused_with_a_hint() -> None:
    def blocking() -> Any:
        yield 1

    with pytest.raises(UsageError, match="a generator"):
        TrackedQueue().task()(blocking)  # type: ignore[arg-type]


def test_the_decorator_needs_parentheses() -> None:
    with pytest.raises(TypeError):
        TrackedQueue().task(good)  # type: ignore[misc, arg-type]


def test_a_task_is_called_as_before_and_named_by_module_and_function() -> None:
    app = TrackedQueue()
    task = app.task()(good)
    assert asyncio.run(task(1)) == 2  # type: ignore[arg-type]
    assert task.name == f"{__name__}.good" and task.__doc__ == good.__doc__ and "good" in repr(task)
    with pytest.raises(UsageError, match="already"):
        app.task()(good)
    assert app.task(name="other")(good).name == "other"


@pytest.mark.parametrize(
    "options",
    [{"queue": ""}, {"timeout": 0}, {"timeout": -1}, {"max_attempts": 0}, {"max_attempts": 1.5}, {"result_ttl": -1}],
)
def test_bad_task_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TrackedQueue().task(**options)


def test_a_script_and_a_module_give_one_name(tmp_path: Path) -> None:
    """CASE-68: run as a script, the task has the name under which a worker imports it."""
    (tmp_path / "shop_jobs.py").write_text(
        textwrap.dedent("""
        from tracked_queue import TrackedQueue
        app = TrackedQueue()
        @app.task()
        async def send() -> None: ...
        if __name__ == "__main__":
            print(send.name)
        """)
    )
    for command in (["shop_jobs.py"], ["-m", "shop_jobs"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "shop_jobs.send"


# Errors


ERRORS = [
    errors.SettingsError("grace", "bad", "GRACE"), errors.ArgumentError("t", "a", "bad"),
    errors.PayloadTooLargeError("t", 2, 1), errors.JobNotFoundError("j"), errors.JobCancelledError("j"),
    errors.JobFailedError("j", "dead", "why", "ValueError", "x", "trace"), errors.StoreUnavailableError("p", True),
    errors.EnqueueUnavailableError("p", False, ("a", "b", "c", "d")), errors.StoreFullError("p", False),
    errors.UsageError("u"), errors.StoreRefusedError("r"), errors.InvariantError("i"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
def test_errors_pickle_copy_and_read_well(error: Exception) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error) and str(twin) == str(error) and vars(twin) == vars(error)
    assert isinstance(error, errors.TrackedQueueError) and str(error)


# Reply words, leases, keys


@pytest.mark.parametrize(
    "call, reply",
    [
        (t.enqueue([]), [b"what"]), (t.register("l", 1, 1, {}), [b"what"]), (t.heartbeat("l", 1, 1), [b"what"]),
        (t.fetch("l", 1, 1, 0, ["q"]), [b"what"]), (t.settle("l", [], 1), [b"what"]), (t.await_end("j"), [b"what"]),
        (t.cancel(["j"], 1), [b"what"]), (t.requeue(["j"]), [b"what"]), (t.unpark("t", []), [b"what"]),
        (t.recover("l", owner="o", max_recoveries=3, lock_ttl=1, resend_window=1, interval=1), [b"what"]),
    ],
)  # fmt: skip
def test_an_unknown_reply_word_is_our_bug(call: t.Call[Any], reply: Any) -> None:
    with pytest.raises(InvariantError, match="what"):
        call.read(reply)


def test_a_lease_is_trusted_from_when_the_beat_was_sent() -> None:
    now = 100.0
    state = LeaseState("l", 10.0, 100.0, lambda: now)
    now = 107.0
    assert state.silent_s == 7.0 and not state.doubtful
    now = 108.0
    assert state.doubtful
    state.beaten(106.0)
    assert not state.doubtful and state.silent_s == 2.0
    state.beaten(101.0)
    assert state.silent_s == 2.0, "a late reply of an older beat takes nothing back"
    assert state.lose() and not state.lose() and state.lost


def test_leases_differ_and_stay_short() -> None:
    """CASE-07; below the 64 bytes up to which Redis keeps a record compact."""
    leases = {new_lease("pod" * 100) for _ in range(100)}
    assert len(leases) == 100 and all(len(lease) <= MAX_LABEL_IN_LEASE + 11 for lease in leases)


def test_ids_in_extras_count_for_the_size_of_a_call() -> None:
    """A call looks at each of them: about a thousand a call, however many jobs name them, and some eighty jobs with extras."""
    many = [request(extras=b"x" * 16_000) for _ in range(10)]
    assert [len(portion) for portion in portions(many)] == [2] * 5
    rich = [request(extras=b"x" * 80) for _ in range(200)]
    assert [len(portion) for portion in portions(rich)] == [81, 81, 38]
    assert [len(portion) for portion in portions([request() for _ in range(300)])] == [250, 50]


def test_states_that_end() -> None:
    unended = {State.SCHEDULED, State.QUEUED, State.ACTIVE, State.PARKED, State.WAITING}
    assert {state for state in State if not state.ended} == unended


def test_keys_share_one_hash_tag() -> None:
    keys = Keys("ns")
    assert keys.named("job", "a") == "{ns}:job:a" and keys.single("dead") == "{ns}:dead"


@pytest.mark.parametrize(
    "info, kind, said",
    [
        (b"redis_version:6.0.16\r\nrole:master\r\n", StoreRefusedError, "too old"),
        (b"redis_version:7.0.0\r\nrole:slave\r\n", StoreUnavailableError, "replica"),
        (b"redis_version:7.0.0\r\nrole:master\r\nloading:1\r\n", StoreUnavailableError, "loading"),
    ],
)
async def test_servers_that_can_not_be_used(info: bytes, kind: type[Exception], said: str) -> None:
    """Too old is for good; a replica may be promoted, as in a failover, and is waited for."""
    from tracked_queue.transport.server import check_server
    from tracked_queue.transport.store import Store

    class Told:
        async def call(self, commands: Any, timeout: Any = None) -> list[Any]:
            return [info]

        async def close(self) -> None: ...

    with pytest.raises(kind, match=said):
        await check_server(Store(Told(), Keys("x"), {}))


def test_an_outage_is_told_once_however_many_calls_notice_it() -> None:
    now = 100.0
    outage = Outage("shard 2: ", clock=lambda: now)
    with capture_logs() as logs:
        outage.failed("it is gone")
        now += 1
        outage.failed("it is gone")
        outage.worked()
        now += SETTLE_S / 2
        outage.failed("a call of before")  # it was under way when the server came back
        outage.worked()
        now += SETTLE_S
        outage.failed("it is gone again")
        now += REMIND_S
        outage.failed("it is gone again")
    assert [(line["event"], line.get("problem")) for line in logs] == [
        ("redis.lost", "shard 2: it is gone"),
        ("redis.restored", None),
        ("redis.lost", "shard 2: it is gone again"),
        ("redis.still_away", "shard 2: it is gone again"),
    ]


def test_a_process_of_several_shards_becomes_empty_for_suspects_of_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shard that has none must not undo the wait of the one that has."""
    now = 0.0
    monkeypatch.setattr("tracked_queue.worker.slots.time.monotonic", lambda: now)
    slots = Slots(4, several=True)
    one, other = (slots.join(lambda: None, lambda queue: 0) for _ in range(2))
    other.start()
    one.suspects = True
    for _ in range(200):
        slots.note_suspects()
        if slots.drains:
            break
        now += 1
    assert slots.drains and one.free() == other.free() == 0
    other.end()
    assert one.free() > 0
    one.suspects = False
    slots.note_suspects()
    assert not slots.drains
